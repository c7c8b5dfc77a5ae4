"""TLS: the files of the certificate, and what a real Envoy does with them."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import grpc
import httpx
import pytest
from cryptography import x509

from include.errors import PipelineError, UserError
from include.live.proxy import Proxy, proxy_of
from include.settings import Settings
from tests.support.certificates import NAME, certificate, ecdsa, of_another_kind, pem, weak, write_pair
from tests.support.proxied import serve, server, settings_of, some_ports
from tests.support.wait import wait_for

BODY = {"text_input": "hello", "max_tokens": 8}
GENERATE = "/v2/models/ensemble/generate"
INFER = "/inference.GRPCInferenceService/ModelInfer"
KEY = "alice-0123456789abcdef"


def settings_with_tls(root: Path) -> Settings:
    chain, key = write_pair(root)
    files = {"tls_certificate_file": chain, "tls_key_file": key}
    return settings_of(root / "store", some_ports()).model_copy(update=files)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("tls")
    keys = root / "keys.txt"
    keys.touch(0o600)
    keys.write_text(f"alice {KEY}\n")
    return settings_with_tls(root).model_copy(update={"api_keys_file": keys, "header_timeout_s": 2})


@pytest.fixture(scope="module")
def proxy(settings: Settings) -> Iterator[Proxy]:
    proxy = proxy_of(settings)
    proxy.ensure_running()
    with server("a") as behind:
        serve(proxy, behind.upstream)
        yield proxy
    proxy.stop()


def trusting(settings: Settings) -> ssl.SSLContext:
    """A client that knows the certificate; `ask` connects to this host by the certificate's name."""
    return ssl.create_default_context(cafile=settings.tls_certificate_file)


def ask(proxy: Proxy, context: ssl.SSLContext, key: str = KEY) -> httpx.Response:
    sni = {"sni_hostname": NAME}
    with httpx.Client(verify=context, timeout=20, trust_env=False) as http:
        headers = {"authorization": f"Bearer {key}", "host": NAME}
        return http.post(f"{proxy.url}{GENERATE}", json=BODY, headers=headers, extensions=sni)


def serial(port: int) -> int:
    """The serial number of the certificate that is served."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode()).serial_number


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificates(path.read_bytes())[0].serial_number


def test_a_client_that_trusts_it_is_answered(proxy: Proxy, settings: Settings) -> None:
    assert proxy.url.startswith("https://")
    assert ask(proxy, trusting(settings)).text == "a 5"
    assert ask(proxy, trusting(settings), "wrong-0123456789abcdef").status_code == 401


def test_one_that_does_not_is_not(proxy: Proxy) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        ask(proxy, ssl.create_default_context())


def test_plain_http_is_not_answered(proxy: Proxy) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(proxy.url.replace("https", "http") + "/v2/health/ready")


def test_a_handshake_that_does_not_begin_is_ended(proxy: Proxy) -> None:
    for port in proxy.ports.all:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
            assert silent.recv(1) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(proxy: Proxy, settings: Settings) -> None:
    old = trusting(settings)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        ask(proxy, old)


def test_grpc_with_a_key_over_tls(proxy: Proxy, settings: Settings) -> None:
    roots = grpc.ssl_channel_credentials(settings.tls_certificate_file.read_bytes())
    options = [("grpc.ssl_target_name_override", NAME)]
    with grpc.secure_channel(f"127.0.0.1:{proxy.ports.grpc}", roots, options=options) as channel:
        infer = channel.unary_unary(INFER)
        assert infer(b"", timeout=20, metadata=[("authorization", f"Bearer {KEY}")]) == b"a"
        with pytest.raises(grpc.RpcError) as caught:
            infer(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_metrics_have_tls_too(proxy: Proxy, settings: Settings) -> None:
    assert serial(proxy.ports.metrics) == serial_in(settings.tls_certificate_file)


def test_its_own_calls_trust_this_certificate_alone(proxy: Proxy, settings: Settings) -> None:
    with proxy_of(settings).client(20) as http:
        assert http.post(GENERATE, json=BODY).text == "a 5"
        elsewhere = proxy_of(settings.model_copy(update={"artifacts": settings.artifacts / "other"}))
    with elsewhere.client(20) as http, pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        http.get("/v2/health/ready")


def test_a_new_certificate_is_taken_without_a_failed_request(proxy: Proxy, settings: Settings) -> None:
    end, answers = Event(), list[int]()

    def keep_asking() -> None:
        with httpx.Client(base_url=proxy.url, verify=False, timeout=20, trust_env=False) as http:
            while not end.is_set():
                answers.append(http.post(GENERATE, json=BODY, headers={"x-api-key": KEY}).status_code)

    threads = [Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        write_pair(settings.tls_certificate_file.parent)
        assert proxy_of(settings).refresh_access() == []
        wait_for(lambda: serial(proxy.ports.http) == serial_in(settings.tls_certificate_file))
        with proxy_of(settings).client(20) as http:
            assert http.get("/v2").text == "a"
    end.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}


def test_a_broken_new_pair_keeps_the_last_good_one(proxy: Proxy, settings: Settings) -> None:
    before = serial_in(settings.tls_certificate_file)
    write_pair(settings.tls_certificate_file.parent, key=pem(ecdsa()))
    (problem,) = proxy_of(settings).refresh_access()
    assert "does not belong" in problem.what
    proxy_of(settings).ensure_running()
    assert serial(proxy.ports.http) == before
    write_pair(settings.tls_certificate_file.parent)
    assert proxy_of(settings).refresh_access() == []


def test_a_chain_is_served_whole(short_path: Path) -> None:
    root, middle, leaf = ecdsa(), ecdsa(), ecdsa()
    chain = certificate(leaf, signed_by=("middle", middle)) + certificate(middle, "middle", ("root", root))
    settings = settings_with_tls(short_path)
    write_pair(short_path, chain, pem(leaf))
    proxy = proxy_of(settings)
    proxy.ensure_running()
    with proxy_of(settings).client(20) as http:
        assert http.get("/v2").status_code == 503
    proxy.stop()


def test_the_private_key_is_only_in_private_files(proxy: Proxy, settings: Settings) -> None:
    line = settings.tls_key_file.read_bytes().splitlines()[1]
    root = settings.tls_key_file.parent
    found = [path for path in root.rglob("*") if path.is_file() and line in path.read_bytes()]
    assert {path.name for path in found} == {"tls.key", "tls.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


def with_pair(chain: bytes | None = None, key: bytes | None = None) -> Callable[[Settings], object]:
    return lambda settings: write_pair(settings.tls_certificate_file.parent, chain, key)


def signed(key: object, **options: object) -> Callable[[Settings], object]:
    return with_pair(certificate(key, **options), pem(key))


BROKEN: list[tuple[str, Callable[[Settings], object], str]] = [
    ("another key", with_pair(key=pem(ecdsa())), "does not belong"),
    ("expired", signed(ecdsa(), days=(-9, -1)), "valid only from"),
    ("not yet valid", signed(ecdsa(), days=(1, 9)), "valid only from"),
    ("a weak key", signed(weak()), "no private key of this kind"),
    ("another kind of key", signed(of_another_kind()), "no private key of this kind"),
    ("a password", with_pair(key=pem(ecdsa(), b"secret")), "no private key that can be read"),
    ("no key", with_pair(key=b"key"), "no private key that can be read"),
    ("no certificate", with_pair(chain=b"certificate"), "no certificate"),
    ("swapped", lambda s: s.tls_certificate_file.write_bytes(s.tls_key_file.read_bytes()), "no certificate"),
    ("binary", with_pair(chain=b"\xff\xfe"), "no certificate"),
    ("readable by others", lambda s: s.tls_key_file.chmod(0o644), "mode 0644"),
    ("missing", lambda s: s.tls_certificate_file.unlink(), "No such file"),
    ("a FIFO", lambda s: (s.tls_key_file.unlink(), os.mkfifo(s.tls_key_file)), "FIFO"),
]


@pytest.mark.parametrize(("breaks", "said"), [one[1:] for one in BROKEN], ids=[one[0] for one in BROKEN])
def test_a_broken_pair_is_refused_at_the_start(
    short_path: Path, breaks: Callable[[Settings], object], said: str
) -> None:
    settings = settings_with_tls(short_path)
    breaks(settings)
    with pytest.raises(PipelineError, match=said):
        proxy_of(settings).ensure_running()
    assert not (settings.artifacts / "servers" / "proxy.json").exists()


@pytest.mark.parametrize("name", ["tls_certificate_file", "tls_key_file"])
def test_one_file_of_the_two_is_refused(short_path: Path, name: str) -> None:
    settings = settings_with_tls(short_path).model_copy(update={name: None})
    with pytest.raises(UserError, match="only one of them"):
        proxy_of(settings)
