"""What lies in the folders of models: names, versions, and which version is current.

A model is a folder:

    a bundle             its only version
    folders of bundles   its versions; `current`, a link to one of them or a file with its name,
                         says which one is served; without it, the greatest whole number

CANDOR_MODELS names a folder of such folders, whose names are those of the models, or embedded
bundles. Nothing is kept between two looks but manifests that have not changed since.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.bundle.manifest import MANIFEST, Manifest
from service.errors import BundleError, ManifestError
from service.settings import MODEL_NAME, Settings

CURRENT = "current"
NUMBER = re.compile("[0-9]{1,18}")
MOST_POINTER_BYTES = 1_024
SHORT_DIGITS = 12  # of a digest, which name a version


@dataclass(frozen=True)
class Version:
    """A version of a `model` on disk: the `digest` of its manifest, 64 hex digits.

    `label` is the name of its folder among others, which clients may call it by.
    """

    model: str
    folder: Path
    digest: str
    label: str = ""

    @property
    def short(self) -> str:
        """The version as answers have it: the first 12 hex digits."""
        return self.digest[:SHORT_DIGITS]


class Catalogue:
    """The folders of models by name; the `default` answers where a path names no model."""

    def __init__(
        self, default: str, folders: Mapping[str, Path], parent: Path | None = None
    ) -> None:
        """`parent`: a folder that is looked through for further models, again and again."""
        self.default = default
        self._folders = dict(folders)
        self._parent = parent
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Catalogue":
        """The models of `settings`: the bundle of CANDOR_BUNDLE, and those of CANDOR_MODELS.

        Raises:
            BundleError: CANDOR_BUNDLE has no version to serve.
        """
        name = settings.model_name or _manifest(current_of(settings.bundle)).name
        if isinstance(settings.models, Path):
            return cls(name, {name: settings.bundle}, settings.models)
        return cls(name, {**(settings.models or {}), name: settings.bundle})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, the default one first."""
        others = {*self._folders, *(path.name for path in self._others())} - {self.default}
        return (self.default, *sorted(others))

    def has(self, name: str) -> bool:
        """True of the name of a model."""
        return self._folder(name) is not None

    def current(self, name: str) -> Version:
        """The version of a model that should be served.

        Raises:
            BundleError: the folder names none, or what it names is no bundle.
        """
        return self._version(name, current_of(self._of(name)))

    def versions(self, name: str) -> tuple[Version, ...]:
        """All versions of a model that can be read, in the order of their labels."""
        found = []
        for folder in _bundles(self._of(name)):
            try:
                found.append(self._version(name, folder))
            except BundleError:
                continue  # the reason is given when it should be served
        return tuple(found)

    def find(self, name: str, called: str) -> Version | None:
        """The version of a model that a caller means by a label or by 12 or 64 hex digits."""
        return next(
            (
                version
                for version in self.versions(name)
                if called in (version.label, version.short, version.digest)
            ),
            None,
        )

    def point(self, name: str, version: Version) -> str:
        """Makes a version the one that its folder says is served; why not, if it cannot be."""
        folder = self._of(name)
        if (folder / MANIFEST).is_file() or version.folder.parent != folder.resolve():
            return f"{folder} names no versions: make it the bundle {version.short} yourself"
        pointer, new = folder / CURRENT, folder / f".{CURRENT}"
        try:
            if pointer.is_symlink():
                new.unlink(missing_ok=True)
                new.symlink_to(version.folder.name)
            else:
                new.write_text(f"{version.folder.name}\n")
            new.replace(pointer)
        except OSError as error:
            return f"{pointer} cannot be written ({error.strerror}): point it to {version.short}"
        return ""

    def _others(self) -> Iterator[Path]:
        if self._parent is None:
            return
        try:
            found = sorted(self._parent.iterdir())
        except OSError:
            return  # it is gone, or a volume is away: what was loaded goes on
        for path in found:
            if MODEL_NAME.fullmatch(path.name) and path.is_dir():
                yield path

    def _folder(self, name: str) -> Path | None:
        if name in self._folders:
            return self._folders[name]
        if self._parent is None or not MODEL_NAME.fullmatch(name):
            return None
        folder = self._parent / name
        return folder if folder.is_dir() else None

    def _of(self, name: str) -> Path:
        folder = self._folder(name)
        if folder is None:
            raise ManifestError(f"there is no model {name!r}: the models are {self.names}")
        return folder

    def _version(self, name: str, folder: Path) -> Version:
        # The real folder: a link that moves on must not change what is read from it later.
        real = folder.resolve()
        label = folder.name if folder != self._of(name) else ""
        return Version(name, real, self._digest(real), real.name if label == CURRENT else label)

    def _digest(self, folder: Path) -> str:
        """The digest of the manifest in `folder`, parsed again only if it has changed."""
        try:
            state = (folder / MANIFEST).stat()
        except OSError:
            return _manifest(folder).digest  # it says what is missing
        mark = (state.st_ino, state.st_size, state.st_mtime_ns)
        known = self._known.get(folder)
        if known is None or known[0] != mark:
            known = self._known[folder] = (mark, _manifest(folder).digest)
        return known[1]


def current_of(folder: Path) -> Path:
    """The folder of the bundle that `folder` says is served.

    Raises:
        ManifestError: it says none.
    """
    if (folder / MANIFEST).is_file():
        return folder
    pointer = folder / CURRENT
    if pointer.is_dir():
        return pointer
    bundles = _bundles(folder)
    if pointer.is_file():
        with pointer.open("rb") as file:
            named = file.read(MOST_POINTER_BYTES).decode(errors="replace").strip()
        found = next((bundle for bundle in bundles if bundle.name == named), None)
        if found is None:
            raise ManifestError(
                f"{pointer} names {named!r}, and {folder} has no such bundle: "
                f"name one of {', '.join(bundle.name for bundle in bundles) or 'its folders'}"
            )
        return found
    numbered = [bundle for bundle in bundles if NUMBER.fullmatch(bundle.name)]
    if not numbered:
        raise ManifestError(
            f"{folder} is no bundle, and names none that is served: it has no {MANIFEST}, no "
            f"{CURRENT} and no bundles in folders named by a number; add one of them"
        )
    return max(numbered, key=lambda bundle: int(bundle.name))


def _bundles(folder: Path) -> list[Path]:
    """The folder itself if it is a bundle, or else the bundles in it."""
    if (folder / MANIFEST).is_file():
        return [folder]
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name != CURRENT and not path.name.startswith(".") and (path / MANIFEST).is_file()
    ]


def _manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`.

    Raises:
        ManifestError: there is none, or it is damaged.
    """
    try:
        return Manifest.parse((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"{folder} is no bundle ({error.strerror}: {MANIFEST})") from None
