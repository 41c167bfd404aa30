"""A client that has nothing but the standard library, for Python 3.8 and later: ``python peer.py ADDRESS KEY``.

It uses a server of `SyncManager`, and prints what it got as JSON. Nothing of the package under test is imported here.
"""

import gc
import json
import queue
import sys
from multiprocessing.managers import RemoteError, SyncManager


def main(address, key):
    manager = SyncManager(address=address, authkey=key.encode("ascii"))
    manager.connect()
    words, numbers, items, lock = manager.dict(a=1), manager.list([1, 2]), manager.Queue(1), manager.RLock()
    words["b"] = 2
    numbers.append(3)
    items.put({"any": ("thing",)})
    report = {
        "words": [sorted(words), words.copy(), sorted(iter(words))],
        "numbers": [numbers[1:], len(numbers), str(numbers)],
        "item": items.get(),
        "lock": [lock.acquire(), lock.acquire(False), lock.release(), lock.release()],
        "barrier": manager.Barrier(1).wait(),
        "value": manager.Value("i", 5).value,
        "array": list(manager.Array("i", [1, 2])),
        "space": str(manager.Namespace(x=1)),
        "condition": [manager.Condition().acquire(), manager.Event().wait(0)],
        "errors": [],
    }
    for call, args in (
        (items.get, (True, 0.001)),
        (items.get_nowait, ()),
        (lock.release, ()),
        (numbers.pop, (9,)),
        (manager.Semaphore, (-1,)),
    ):
        try:
            call(*args)
        except (queue.Empty, RuntimeError, IndexError, RemoteError) as error:
            report["errors"].append(type(error).__name__)
    items.put(1)
    try:
        items.put(2, timeout=0.001)
    except queue.Full:
        report["errors"].append("Full")
    gc.collect()  # errors of calls hold their proxies, in cycles
    report["objects"] = manager._number_of_objects()
    del words, numbers, items, lock, call, args
    report["left"] = manager._number_of_objects()
    print(json.dumps(report, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
