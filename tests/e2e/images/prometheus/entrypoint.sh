#!/bin/sh
# Prometheus 3's flags as Debian's Prometheus 2.53 takes them. It is built without the OTLP receiver.
set -eu
for word; do
    shift
    case $word in
        --web.enable-otlp-receiver) continue ;;
        --agent) word=--enable-feature=agent ;;
    esac
    set -- "$@" "$word"
done
exec prometheus "$@"
