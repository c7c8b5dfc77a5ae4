"""The live links: ``live/<name> -> ../releases/<model>/<n>``, one for each served name, beside all releases.

Moving a link, one rename, commits a promotion; removing it commits that the name is off the air. Earlier versions had
one live release and one link, ``releases/live -> <model>/<n>``. That link counts, under the release's served name,
until the first change of a link, which puts the directory in its place.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from include.files import Damaged, damaged, disk_errors, replace, sync
from include.releases.ids import ReleaseId
from include.requests.names import is_name

FORMER_LINK = "live"
_MEND = "promote a release, or roll back: that mends it"


@dataclass(frozen=True)
class LiveLinks:
    """The links beside the releases at ``releases``. ``note`` gets what is damaged.

    What a damaged link led to, ``last_promoted`` tells: the release of each name that was promoted last, and when.
    ``named`` gives the served name of a release.
    """

    releases: Path
    note: Callable[[Damaged], None]
    named: Callable[[ReleaseId], str]
    last_promoted: Callable[[], dict[str, tuple[ReleaseId, datetime]]]

    @property
    def root(self) -> Path:
        """The directory of the links."""
        return self.releases.parent / "live"

    def ids(self) -> dict[str, ReleaseId]:
        """The live releases by served name, in the names' order."""
        if not os.path.lexists(self.root):
            return self._former()
        if not self._is_directory():
            self.note(damaged(self.root, "it is no directory of live links", _MEND))
            return self._last()
        entries = sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        found = {path.name: self._target(path) for path in entries if self._is_link_of_a_name(path)}
        return {name: release for name, release in found.items() if release}

    def since(self, name: str) -> datetime | None:
        """The time at which the link of a name was last moved; None if there is none, or it is damaged."""
        moved = self._moved_ns(name)
        return datetime.fromtimestamp(moved / 1e9, UTC) if moved else None

    def move(self, name: str, release: ReleaseId) -> None:
        """Points the link of a name at a release, in one step."""
        self._migrate()
        link_to(self.root / name, self._text(release))

    def remove(self, name: str) -> None:
        """Removes the link of a name."""
        self._migrate()
        with disk_errors(self.root / name):
            _put_aside(self.root / name)
            sync(self.root)

    def _text(self, release: ReleaseId) -> str:
        return f"../{self.releases.name}/{release}"

    def _is_directory(self) -> bool:
        return self.root.is_dir() and not self.root.is_symlink()

    def _moved_ns(self, name: str) -> int | None:
        link = self.root / name
        if not os.path.lexists(self.root) and name in self._former():
            link = self.releases / FORMER_LINK
        try:
            self._leads_to(link)
            return link.lstat().st_mtime_ns
        except (OSError, ValueError):
            return None

    def _leads_to(self, link: Path) -> ReleaseId:
        above = "" if link.name == FORMER_LINK and link.parent == self.releases else f"../{self.releases.name}/"
        text = str(link.readlink())
        return ReleaseId.parse(text.removeprefix(above) if text.startswith(above) else "")

    def _last(self) -> dict[str, ReleaseId]:
        return {name: release for name, (release, _) in sorted(self.last_promoted().items())}

    def _is_link_of_a_name(self, path: Path) -> bool:
        if is_name(path.name):
            return True
        self.note(damaged(path, "no model can be served under this name", "move it away"))
        return False

    def _target(self, link: Path) -> ReleaseId | None:
        try:
            return self._leads_to(link)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.note(damaged(link, "it does not lead to a release", _MEND))
            return self._last().get(link.name)

    def _former(self) -> dict[str, ReleaseId]:
        """The live release of an earlier version, by its name."""
        link = self.releases / FORMER_LINK
        try:
            release = self._leads_to(link)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            self.note(damaged(link, "it does not lead to a release", _MEND))
            return self._last()
        return {self.named(release): release}

    def _migrate(self) -> None:
        """Puts the directory in the place of an earlier version's link, or of what is damaged; links keep their times.

        A crash before the rename leaves all as it was, and after it the former link does not count any more.
        """
        if not self._is_directory():
            self._make()
        former = self.releases / FORMER_LINK
        if os.path.lexists(former):
            with disk_errors(former):
                _put_aside(former)

    def _make(self) -> None:
        draft = self.root.with_name(f".{self.root.name}.{secrets.token_hex(4)}")
        with disk_errors(self.root):
            draft.mkdir(parents=True)
            for name, release in self.ids().items():
                (draft / name).symlink_to(self._text(release))
                moved = self._moved_ns(name) or round(self.last_promoted()[name][1].timestamp() * 1_000_000) * 1000
                os.utime(draft / name, ns=(moved, moved), follow_symlinks=False)
            sync(draft)
            if os.path.lexists(self.root):
                _put_aside(self.root)
            draft.rename(self.root)
            sync(self.root.parent)


def link_to(link: Path, target: str) -> None:
    """Points a link at ``target`` in one step, so that it exists at every moment."""
    with disk_errors(link):
        draft = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
        draft.symlink_to(target)
        replace(draft, link)
        sync(link.parent)


def _put_aside(path: Path) -> None:
    """Removes a link or a file; a directory that lies there instead is renamed, so that what is in it stays."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
    else:
        path.unlink(missing_ok=True)
