"""One request for the bytes of a lease: through the gateway that owns them, or to storage itself.

What storage says through a gateway means what it always means. But a gateway may be wrong: before a file starts over, or a
fresh URL counts as refused, storage itself is asked for one byte; so it is when a body ends early.

Failures handled: refused URLs (fresh ones are asked for), a store that ignores Range, a gateway that fails (`GatewayFault`:
the ring holds it out, and the lease goes another way), a gateway that contradicts storage.
"""

from collections.abc import Callable

from axomsync.core.errors import AxomsyncError, GatewayFault, Refused, SourceChanged, Transient, UrlExpired
from axomsync.mirror.fetch.dispatch import Dispatcher
from axomsync.mirror.fetch.partial import PartialFile
from axomsync.mirror.fetch.receive import Reception, Tools
from axomsync.mirror.fetch.segments import MEBIBYTE, Lease
from axomsync.runtime.ring import Ring, Way
from axomsync.storage.client import RangeIgnored, Storage
from axomsync.transport.gateways import BLOCK

USEFUL_BYTES = MEBIBYTE  # a body that ends early after so many is no fault


class Requests:
    """Makes the requests of all lanes."""

    def __init__(
        self, storage: Storage, ring: Ring, dispatcher: Dispatcher, tools: Tools, clock: Callable[[], float]
    ) -> None:
        self._storage, self._ring, self._dispatcher, self._tools, self._clock = storage, ring, dispatcher, tools, clock

    def serve(self, lease: Lease[PartialFile], beat: Callable[[], None]) -> None:
        """Fetch the bytes of a lease, or as many of them as one request may ask for."""
        file, began, begun = lease.file, self._clock(), lease.position
        of_file = file.generation
        url, generation, fresh = file.job.urls.url(file.rel)
        way = self._way(url, lease)
        lease.gateway = way.gateway
        try:
            self._receive(lease, url, way, began, beat, fresh=fresh)
        except GatewayFault as fault:
            received = lease.position - begun
            if fault.is_contradicted or not received or self._would_answer(file, url, of_file):
                self._blame(way.gateway or "", url, fault, received)
            raise
        except RangeIgnored:
            if way.gateway is not None:
                file.direct = True
                raise GatewayFault("storage ignores ranges") from None
            file.ignore_range()
            raise Transient("storage ignores ranges") from None
        except (UrlExpired, Refused) as refusal:
            if isinstance(refusal, Refused) and fresh:
                raise
            file.job.urls.refused(generation)
            file.job.refused.add(generation)
            raise UrlExpired(str(refusal)) from None
        self._dispatcher.finish(lease, began)

    def _way(self, url: str, lease: Lease[PartialFile]) -> Way:
        file = lease.file
        if file.direct or not file.ranges or not file.size:
            return Way(lease.end)
        return self._ring.way(url, lease.position, lease.end, file.barred.get(lease.position // BLOCK, ()))

    def _receive(
        self, lease: Lease[PartialFile], url: str, way: Way, began: float, beat: Callable[[], None], *, fresh: bool
    ) -> None:
        file, begun = lease.file, lease.position
        of_file = file.generation
        etag = None if file.ignores_etags else file.etag
        handle = file.acquire()
        try:
            with self._storage.get(url, begun, way.end, file.size, etag, way.gateway) as reply:
                self._dispatcher.accept(lease, reply, way.end, began)
                Reception(self._tools, lease, handle.descriptor, beat).receive(reply)
        except (SourceChanged, UrlExpired, Refused) as failure:
            if way.gateway is not None and (fresh or isinstance(failure, SourceChanged)):
                self._ask_storage(file, url, begun, way.gateway, failure, of_file)
            raise
        finally:
            file.release(handle)
            self._ring.count(way.result, lease.position - begun)
        if way.gateway is not None:
            self._ring.worked(way.gateway, url)

    def _blame(self, gateway: str, url: str, fault: GatewayFault, received: int) -> None:
        if fault.is_refusal:
            self._ring.refused(gateway, url, str(fault))
        elif fault.is_contradicted or not received:
            self._ring.failed(gateway, str(fault), is_storage=fault.is_storage)
        elif received >= USEFUL_BYTES:
            self._ring.worked(gateway)
        else:
            self._ring.broke_off(gateway, str(fault))

    def _ask_storage(
        self, file: PartialFile, url: str, position: int, gateway: str, failure: AxomsyncError, generation: int
    ) -> None:
        """Have storage confirm what a gateway said of `generation` of the file.

        Raises what storage says, `GatewayFault` if it does not confirm, and the failure if the file has started over.
        """
        self._touch(file, url)
        if isinstance(failure, SourceChanged) and file.generation != generation:
            raise failure  # another lane met it before, and storage was asked for the new object
        file.bar(gateway, position)
        raise GatewayFault(f"storage contradicts it: {failure}", is_contradicted=True)

    def _would_answer(self, file: PartialFile, url: str, generation: int) -> bool:
        """Check whether storage itself would have given the rest of `generation` of the file.

        Raises `SourceChanged` if it has another object by now.
        """
        try:
            self._touch(file, url)
        except (Transient, UrlExpired, Refused):
            return False
        return file.generation == generation

    def _touch(self, file: PartialFile, url: str) -> None:
        """Fetch one byte from storage itself. Raises what storage says."""
        etag = None if file.ignores_etags else file.etag
        with self._storage.get(url, 0, min(1, file.size), file.size, etag) as reply:
            for _ in reply.chunks:
                break
