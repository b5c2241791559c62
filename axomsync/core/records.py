"""Records that every room uses, frozen, and the words for states. No behaviour, no I/O.

Sizes are bytes, times are seconds since the Unix epoch (UTC), digests are lower-case hex.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class UploadState(StrEnum):
    """State of a file of the drop folder. The words are a contract: JSON, ledger, page and metrics show them."""

    SETTLING = "settling"
    CHECKING = "checking"
    QUEUED = "queued"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    HELD = "held"
    FAILED = "failed"


CHARACTERS_A_TOKEN = 4  # of English text, for the usual tokenizers; other scripts have fewer

UNDER_WAY = frozenset({UploadState.SETTLING, UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING})


class ModelState(StrEnum):
    """State of a model. The words are a contract, like those of `UploadState`."""

    WAITING = "waiting"
    IGNORED = "ignored"
    QUEUED = "queued"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PUBLISHED = "published"
    BLOCKED = "blocked"
    FAILED = "failed"
    GONE = "gone"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identity of a file's content on disk: any write, truncation or replacement changes it."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class RepeatedLines:
    """Lines of a dataset that equal an earlier line, byte for byte."""

    count: int
    compared: int  # number of lines compared; in a large file not all of them
    first: tuple[int, ...]  # line numbers of the first repeats, from 1


@dataclass(frozen=True, slots=True)
class ShapeFinding:
    """Something odd about the shape of one line; line and column count from 1."""

    line: int
    column: int
    reason: str


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a dataset as a trainer would see it: what its lines are, how much they hold, what is odd about them."""

    kind: str | None  # "text", "chat", "pairs", "preference"; "other" for no known shape; None where nothing was read
    examples: int
    turns: int  # messages, in shapes that have some
    longest_line: int  # characters of the texts of the longest example
    characters: int  # of all texts
    mixed: int  # examples that have another shape than `kind`
    findings: tuple[ShapeFinding, ...]  # the first ones
    findings_total: int

    @property
    def tokens_estimate(self) -> int:
        """About how many tokens the texts are; no tokenizer was asked."""
        return self.characters // CHARACTERS_A_TOKEN


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of one reading of a dataset file."""

    sha256: str
    bytes: int
    lines: int
    blake3: str | None = None  # of all bytes, when the file goes up whole and is not empty
    shards: tuple[str, ...] = ()  # BLAKE3 of each planned shard, in order
    repeated: RepeatedLines | None = None
    shape: Shape | None = None  # None where nobody asked for it


@dataclass(frozen=True, slots=True)
class Presigned:
    """The answer of `POST /uploads/presign`. `url` is a secret."""

    upload_id: str
    key: str
    url: str = field(repr=False)
    expires_at: float | None  # by the local clock; None when the URL does not say


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of the drop folder: a row of the ledger."""

    id: int
    path: bytes  # relative to the drop folder, as the filesystem stores it
    filename: str  # as told to the console
    stamp: Stamp
    state: UploadState
    reason: str | None
    sha256: str | None
    md5: str | None
    lines: int | None
    upload_id: str | None
    key: str | None
    etag: str | None
    duplicate_of: int | None
    attempts: int
    next_attempt: float | None
    created_at: float
    updated_at: float
    repeated: RepeatedLines | None = None  # None when no line repeats another, or none was compared
    shape: Shape | None = None  # None with [drop] schema = "off", and for files that an older agent checked
    blake3: str | None = None  # of the checked bytes; None for shards, and for files that an older agent checked
    doubtful: bool = False  # confirmed, but the ETag looks like an MD5 and is not the MD5 of the bytes
    unpacked: int | None = None  # bytes that a compressed file holds; of a held one, bytes that it has at least
    packed_sha256: str | None = None  # of a compressed file itself; `sha256` is of what it holds

    @property
    def size(self) -> int:
        """Bytes of the content that `sha256` names, or of the file before its check."""
        return self.stamp.size if self.unpacked is None or self.sha256 is None else self.unpacked

    @property
    def file_sha256(self) -> str | None:
        """Digest of the dropped file itself."""
        return self.packed_sha256 or self.sha256

    @property
    def stored_by(self) -> int:
        """Row of the upload that brought the content into storage: of a duplicate, its original's."""
        return self.duplicate_of or self.id

    @property
    def was_seen(self) -> bool:
        """True when this ledger stored the file's own stamp, not only data from a receipt."""
        return bool(self.stamp.dev or self.stamp.ino)


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of a large file, uploaded as its own object. `number` counts from 1."""

    number: int
    filename: str
    start: int
    end: int
    upload_id: str | None
    key: str | None
    etag: str | None
    blake3: str | None  # of the checked bytes; None when an older agent planned the shard
    uploaded: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """Storage's copy of a content: one object, or shards that give the content when joined."""

    upload_id: str | None
    key: str | None
    etag: str | None
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """A compressed file as it was dropped."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The archive's document for an uploaded file."""

    path: bytes  # of the file before archiving, relative to the drop folder
    filename: str
    bytes: int
    sha256: str
    md5: str | None
    lines: int | None
    repeated: RepeatedLines | None
    stored: Stored
    duplicate: bool
    at: float
    shape: Shape | None = None
    packed: Packed | None = None  # None unless the file is compressed

    @property
    def file_bytes(self) -> int:
        """Bytes of the archived file itself; `bytes` is of what it holds."""
        return self.bytes if self.packed is None else self.packed.bytes

    @property
    def file_sha256(self) -> str:
        """Digest of the archived file itself; `sha256` is of what it holds."""
        return self.sha256 if self.packed is None else self.packed.sha256


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A row of `GET /base-models`."""

    id: str
    family: str | None
    name: str | None
    version: str | None
    params: int | None
    precision: str | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A row of `GET /datasets`."""

    id: str
    name: str | None
    version: str | None
    shard_count: int | None
    bytes: int | None
    status: str | None
    created_at: str | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A row of `GET /models`. `id` is the identity; `name` and `version` are labels chosen by people."""

    id: str
    name: str
    version: str
    params: int | None
    base_model_id: str | None
    status: str
    created_at: str | None


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a download manifest. `url` is a secret."""

    rel: str
    size: int
    url: str = field(repr=False)
    expires_in: float | None  # seconds from the moment the manifest arrived; None when the URL does not say
    checksums: tuple[tuple[str, str], ...] = ()  # ("md5", "sha256" or "blake3", hex), if the console gives any


@dataclass(frozen=True, slots=True)
class Manifest:
    """The answer of `GET /models/{id}/download`."""

    model_id: str
    files: tuple[ManifestFile, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `start` to `end` (exclusive) of one file."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the segment."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class DurableSegment:
    """A durable segment, with the BLAKE3 of its bytes."""

    start: int
    end: int
    blake3: str
    gateway: str | None = field(default=None, compare=False)  # that it came through, until the model is published


class Proof(StrEnum):
    """Evidence for a file's bytes."""

    PROVEN = "proven"  # the bytes match storage's checksum
    MANIFEST = "manifest checksum"  # the bytes match the checksum of the console's manifest
    STRUCTURE = "structure"  # no checksum, but the file format's structure is complete
    SIZE = "size only"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The ledger's row for one file of a model in download."""

    rel: str
    size: int
    etag: str | None
    segments: tuple[DurableSegment, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalog and its state here: a row of the ledger."""

    id: str
    name: str
    version: str
    params: int | None
    base_model_id: str | None
    remote_status: str
    created_at: str | None  # as the console wrote it
    state: ModelState
    reason: str | None
    path: str | None  # of the published folder
    bytes_done: int
    bytes_total: int | None
    attempts: int
    next_attempt: float | None
    updated_at: float
    pulled: bool = False  # requested by name: the selection and `keep` do not apply
    absent_polls: int = 0  # number of listings in a row without this model
    absent_since: float | None = None
    damage: str | None = None  # damage found when the published bytes were last read
    verified_at: float | None = None  # when the bytes were last read and compared
    left_out: tuple[str, ...] = ()  # files of a published model that `[mirror] files` did not select
    remarks: tuple[str, ...] = ()  # oddities of a published model's files that do not block it
    bytes_from_gateways: int = 0
    proofs: tuple[tuple[str, int], ...] = ()  # proofs of a published model's files, with the number of files
    digest: str | None = None  # of a published model: over its files and their digests

    @classmethod
    def listed(cls, model: RemoteModel, state: ModelState, reason: str | None = None) -> "Model":
        """The row of a model that the ledger does not know yet."""
        return cls(
            id=model.id,
            name=model.name,
            version=model.version,
            params=model.params,
            base_model_id=model.base_model_id,
            remote_status=model.status,
            created_at=model.created_at,
            state=state,
            reason=reason,
            path=None,
            bytes_done=0,
            bytes_total=None,
            attempts=0,
            next_attempt=None,
            updated_at=0.0,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A reason to run a hook. `subject` is a model's id or the row of an upload."""

    id: int
    kind: str  # "model_published", "model_removed", "current_moved", "health", "upload_done" or "failed"
    table: str  # "models" or "uploads"
    subject: str
    at: float
    attempts: int
    next_attempt: float | None = None
    path: str | None = None  # of the folder that a removed or renamed model had


@dataclass(frozen=True, slots=True)
class Published:
    """A published model: what is needed to find it."""

    id: str
    name: str
    version: str
    path: str
    created_at: str | None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Current:
    """The model that `current` in the `folder` of a name was last seen to lead to."""

    folder: str
    model: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that has to stay healthy; `folder` is that of its name."""

    folder: str
    model: str
    previous: str | None  # the model that led before
    began_at: float
    ends_at: float | None  # None before the first check
    next_check: float | None
    checks: int
    verdict: str | None  # None while it runs; "failed", and after the way back "back", or "stays" without one
    reason: str | None  # what the last check said


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer in flight, as `status` shows it. `rate` is bytes a second, `eta` seconds."""

    direction: str  # "up" or "down"
    name: str
    bytes_done: int  # durable; never goes backwards while the transfer lives
    bytes_received: int
    bytes_total: int
    rate: float
    eta: float | None


@dataclass(frozen=True, slots=True)
class Problem:
    """An obstacle to the agent's work, as `status` shows it."""

    subject: str
    reason: str
    since: float
    next_attempt: float | None


@dataclass(frozen=True, slots=True)
class Happening:
    """A line of the history: a model, an upload, a problem or the agent changed its state."""

    at: float
    kind: str  # "model", "upload", "problem" or "agent"
    subject: str
    state: str
    reason: str | None
