"""Large inputs through shared memory: used by itself, given up without a word, and never left behind."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import held
from fault_proxy import Fault, fault_proxy

from plansmith_client import Client, DeadlineExceeded, InferenceFailed, InvalidInput, ProtocolError, SharedMemoryPolicy
from plansmith_client.calling import shared_memory_sending
from plansmith_client.protocol.operations import ListSharedMemory, UnregisterSharedMemory
from plansmith_client.shared_memory import owners
from plansmith_client.shared_memory.owners import is_abandoned, make_region_name
from plansmith_client.shared_memory.pool import RegionPool
from plansmith_client.shared_memory.regions import Region
from plansmith_client.transports.deadlines import Deadline
from plansmith_client.transports.grpc.transport import GrpcTransport

FOLDER = Path("/dev/shm")
SMALL = SharedMemoryPolicy(threshold=1024, limit=2**25)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this system keeps no shared memory in /dev/shm")


@pytest.fixture(params=FACES)
def face(request):
    return request.param


def regions(server) -> set[str]:
    with Client(server.grpc_url) as client:
        (asked,) = client._core.caller.servers.all()
        return set(asked.transport.call(ListSharedMemory(), Deadline(60)))


@pytest.fixture(autouse=True)
def time_to_unregister(monkeypatch):
    """A client that closes waits a second for the server, and leaves the rest to a later one; a busy machine may take
    longer.
    """
    monkeypatch.setattr(shared_memory_sending, "_UNREGISTER_SECONDS", 30.0)


def unregister_all(server) -> None:
    """Triton refuses while a request uses a region, and for a moment after it has answered the request."""
    until = time.monotonic() + 60
    with Client(server.grpc_url) as client:
        (asked,) = client._core.caller.servers.all()
        while True:
            try:
                asked.transport.call(UnregisterSharedMemory(""), Deadline(60))
            except ProtocolError:
                assert time.monotonic() < until, regions(server)
                time.sleep(0.01)
            else:
                return


@pytest.fixture(autouse=True)
def nothing_registered(server):
    """What a stalled connection delivers late, after its client has gone, is of no concern to the next test."""
    unregister_all(server)


def files() -> set[str]:
    """Those of this process: others run servers and clients at the same time."""
    return {path.name for path in FOLDER.glob(f"{make_region_name().rpartition('-')[0]}-*")}


def test_large_inputs_of_every_type_go_through_shared_memory_and_come_back(server, face):
    rng = np.random.default_rng(0)
    inputs = {
        "fp32": rng.standard_normal((300, 1000)).astype(np.float32),
        "int64": rng.integers(-9, 9, (7, 1001)),
        "bool": rng.integers(0, 2, (5, 77)).astype(bool),
        "fp16": np.zeros((0, 4), np.float16),
        "string": np.array([["small", "text"]]),
        "int32": np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-3],
    }
    before = files()
    with open_client(face, url_of(face, server)) as client:
        result = client.model("every_type").infer(inputs)
        for name, sent in inputs.items():
            wanted = np.char.encode(sent).astype(object) if name == "string" else sent
            np.testing.assert_array_equal(result[f"{name}_out"], wanted)
        # The server has mapped the memory; its name is gone, so that nothing is left if this process dies.
        assert len(regions(server)) == 1
        assert files() == before
    assert regions(server) == set()


def test_small_inputs_and_those_who_do_not_want_it_go_the_usual_way(server, face):
    large = np.zeros((1000, 1000), np.float32)
    with open_client(face, url_of(face, server)) as client:
        client.model("every_type").infer({"fp32": large[:1]})
        assert regions(server) == set()
    with open_client(face, url_of(face, server), shared_memory=False) as client:
        client.model("every_type").infer({"fp32": large})
        assert regions(server) == set()


def test_regions_are_used_again_by_one_request_after_another(server, face):
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model = client.model("every_type")
        for number in range(20):
            rows = np.full((100, 10 + number), number, np.float32)
            np.testing.assert_array_equal(model.infer({"fp32": rows})["fp32_out"], rows)
        assert len(regions(server)) == 1


def test_an_interrupt_while_inputs_are_copied_costs_no_region(server, monkeypatch):
    rows = np.ones((100, 10), np.float32)
    with Client(server.grpc_url, shared_memory=SMALL) as client:
        model = client.model("every_type")
        model.infer({"fp32": rows})
        for kind, name in ((Region, "write"), (GrpcTransport, "call")):
            with monkeypatch.context() as patched:
                patched.setattr(kind, name, interrupted)
                with pytest.raises(KeyboardInterrupt):
                    model.infer({"fp32": rows})
            pool = pool_of(client)
            assert len(pool._free) + pool.quarantined == len(pool._made) == 1


def interrupted(*_):
    raise KeyboardInterrupt


def test_threads_have_regions_of_their_own_and_never_see_each_others_data(server, face):
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model = client.model("every_type")

        def work(number):
            for step in range(10):
                rows = np.full((64, 64), number * 100 + step, np.float32)
                np.testing.assert_array_equal(model.infer({"fp32": rows})["fp32_out"], rows)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert 1 <= len(regions(server)) <= 8
    assert regions(server) == set()


def test_beyond_the_limit_requests_go_the_usual_way(server):
    policy = SharedMemoryPolicy(threshold=1024, limit=2**20)
    with Client(server.grpc_url, shared_memory=policy) as client:
        rows = np.ones((1000, 1000), np.float32)
        np.testing.assert_array_equal(client.model("every_type").infer({"fp32": rows})["fp32_out"], rows)
        assert regions(server) == set()


def test_a_registration_that_the_server_has_lost_is_made_anew(server, face):
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model = client.model("every_type")
        rows = np.ones((64, 64), np.float32)
        model.infer({"fp32": rows})
        unregister_all(server)
        for number in range(3):
            np.testing.assert_array_equal(model.infer({"fp32": rows * number})["fp32_out"], rows * number)
        assert len(regions(server)) == 1


def test_a_client_that_closes_right_after_an_answer_leaves_no_region_with_the_server(server, face, monkeypatch):
    ask, refused = shared_memory_sending.SharedMemory._ask, []

    def refused_once(self, operation, deadline):
        # One of some hundred closings is refused so: the server has answered, but not yet let go of the region.
        if isinstance(operation, UnregisterSharedMemory) and not refused:
            refused.append(operation.name)
            raise ProtocolError(f"Cannot unregister shared memory region '{operation.name}', it is currently in use.")
        return (yield from ask(self, operation, deadline))

    monkeypatch.setattr(shared_memory_sending.SharedMemory, "_ask", refused_once)
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        client.model("every_type").infer({"fp32": np.ones((64, 64), np.float32)})
    assert refused
    assert regions(server) == set()


def test_a_server_with_another_shared_memory_is_noticed_and_served_the_usual_way(server, face, monkeypatch, caplog):
    caplog.set_level("INFO", "plansmith_client")
    # What a container with a /dev/shm of its own answers: it cannot open the region.
    from plansmith_client.shared_memory import regions as module  # noqa: PLC0415

    monkeypatch.setattr(module.Region, "key", property(lambda region: f"/elsewhere-{region.name}"))
    before = files()
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model = client.model("every_type")
        for number in range(3):
            rows = np.full((64, 64), number, np.float32)
            np.testing.assert_array_equal(model.infer({"fp32": rows})["fp32_out"], rows)
    assert regions(server) == set()
    assert files() == before
    (line,) = [record.message for record in caplog.records if "--allow-client-shm=true" in record.message]
    assert url_of(face, server) in line


def test_a_region_whose_request_was_given_up_is_not_used_for_another(server, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        with open_client(face, url, shared_memory=SMALL, timeout=10) as client:
            model = client.model("every_type")
            rows = np.ones((64, 64), np.float32)
            model.infer({"fp32": rows})
            proxy.always = Fault(stall=True)
            proxy.end_connections()
            time.sleep(0.2)
            with pytest.raises(DeadlineExceeded):
                model.infer({"fp32": rows * 2}, timeout=0.5)
            proxy.always = Fault()
            proxy.end_connections()
            np.testing.assert_array_equal(model.infer({"fp32": rows * 3})["fp32_out"], rows * 3)
            assert len(regions(server)) == 2
    assert regions(server) == set()


def pool_of(client):
    """The pool of regions of a client of one server, which asks it at once to give up a region in quarantine."""
    core = client._behind._core if hasattr(client, "_behind") else client._core
    (asked,) = core.caller.servers.all()
    asked.shared_memory._pool.patience = 1e-3
    return asked.shared_memory._pool


def wait_until_released(pool, call) -> None:
    """Until the server, which is asked at each call, has given up all regions in quarantine."""
    until = time.monotonic() + 60
    call()
    while pool.quarantined:
        assert time.monotonic() < until
        time.sleep(0.01)
        call()


def test_requests_that_were_given_up_do_not_switch_shared_memory_off(server, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        policy = SharedMemoryPolicy(threshold=1024, limit=2**22)
        with open_client(face, url, shared_memory=policy, timeout=10) as client:
            model, pool = client.model("every_type"), pool_of(client)
            rows = np.ones((64, 64), np.float32)
            model.infer({"fp32": rows})
            proxy.always = Fault(stall=True)
            proxy.end_connections()
            time.sleep(0.2)
            for _ in range(30):
                with pytest.raises(DeadlineExceeded):
                    model.infer({"fp32": rows}, timeout=0.02)
            assert 1 <= pool.quarantined <= 4
            proxy.always = Fault()
            proxy.end_connections()
            wait_until_released(pool, lambda: model.infer({"fp32": rows}))
            assert len(regions(server)) == 1
    assert regions(server) == set()


def test_small_regions_that_nobody_uses_make_room_for_a_larger_one(server, face):
    policy = SharedMemoryPolicy(threshold=1024, limit=2**22)
    with open_client(face, url_of(face, server), shared_memory=policy) as client:
        model, pool = client.model("every_type"), pool_of(client)
        # As many as requests at once would need.
        for _ in range(4):
            model.infer({"fp32": np.ones((64, 64), np.float32)})
            pool._free.clear()
        pool._free.extend(pool._made)
        large, until = np.ones((500, 1000), np.float32), time.monotonic() + 60
        while max(region.size for region in pool._made) < large.nbytes:
            assert time.monotonic() < until
            np.testing.assert_array_equal(model.infer({"fp32": large})["fp32_out"], large)
    assert regions(server) == set()


class Room:
    """A region without memory."""

    def __init__(self, size):
        self.size = size


def test_no_more_regions_make_room_than_are_needed_however_often_room_is_asked_for():
    pool = RegionPool(1024)
    pool.patience = 600.0
    for region in [pool.lend(64, lambda: Room(64), lambda _: True) for _ in range(16)]:
        pool.take_back(region)
    for _ in range(8):
        assert pool.lend(128, lambda: Room(128), lambda _: True) is None
    assert pool.quarantined == 2
    # Nobody uses them: no server has to be waited for as long as for a request that was given up.
    assert max(at for at, _ in pool._quarantine.values()) < time.monotonic() + 60


def test_a_region_that_the_server_still_uses_is_not_taken_from_it(server, face):
    with open_client(face, url_of(face, server), shared_memory=SharedMemoryPolicy(threshold=1)) as client:
        slow, pool = client.model("slow"), pool_of(client)
        slow([[0.0]])
        rows = np.ones((8, 4), np.float32)
        with pytest.raises(DeadlineExceeded):
            slow([[-1.0]], timeout=1.0)
        with held(server):
            assert pool.quarantined == 1
            used = regions(server)
            client.model("double")(rows)
            # The server refuses to give it up.
            assert pool.quarantined == 1
            assert used < regions(server)
        wait_until_released(pool, lambda: client.model("double")(rows))
    assert regions(server) == set()


def test_outputs_whose_size_is_known_come_through_shared_memory(server, face):
    rows = np.arange(32, dtype=np.float32).reshape(8, 4)
    with open_client(face, url_of(face, server), shared_memory=SharedMemoryPolicy(threshold=64)) as client:
        model = client.model("double")
        first = model(rows)["y"]
        (region,) = pool_of(client)._free
        assert bytes(region.view(128, 128)) == (rows * 2).tobytes()
        # They belong to the caller.
        second = model(rows + 1)["y"]
        second[:] = -1
        np.testing.assert_array_equal(first, rows * 2)
        np.testing.assert_array_equal(model.infer({"x": rows}, outputs=["y"])["y"], rows * 2)
        np.testing.assert_array_equal(model(np.tile(rows, (5, 1)))["y"], np.tile(rows * 2, (5, 1)))
        np.testing.assert_array_equal(model.map(rows).collect()["y"], rows * 2)
        assert model.classify(rows[:1], top=2)[0][0].score == 6


KILLED = """
import os, signal, sys
import numpy as np
from plansmith_client import Client
client = Client(sys.argv[1])
client.model("every_type").infer({"fp32": np.ones((1000, 1000), np.float32)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_client_left_is_swept_by_the_next_one(server, face):
    url = url_of(face, server)
    killed = subprocess.run([sys.executable, "-c", KILLED, url], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(regions(server)) == 1
    with open_client(face, url) as client:
        client.model("every_type").infer({"fp32": np.ones((1000, 1000), np.float32)})
        assert len(regions(server)) == 1
    assert regions(server) == set()


def test_a_file_that_was_never_registered_is_swept_too_and_that_of_a_living_process_is_not(server):
    parts = make_region_name().split("-")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    left = "-".join([*parts[:3], str(child.pid), parts[4]])
    dead, living = FOLDER / f"{left}-{parts[5]}", FOLDER / make_region_name()
    # What cannot be removed, as that of another user, keeps nothing else; the system lists it first or last.
    others = [FOLDER / f"{left}-{number:016x}" for number in range(2)]
    others[0].mkdir()
    for path in (dead, living):
        path.write_bytes(b"")
    others[1].mkdir()
    try:
        with Client(server.grpc_url) as client:
            client.model("every_type").infer({"fp32": np.ones((1000, 1000), np.float32)})
        assert not dead.exists()
        assert living.exists()
    finally:
        living.unlink()
        for path in others:
            path.rmdir()


@pytest.mark.parametrize(("number", "stays"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_where_memory_cannot_be_had_tensors_go_the_usual_way(server, number, stays, monkeypatch, caplog):
    caplog.set_level("DEBUG", "plansmith_client")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    rows = np.ones((64, 64), np.float32)
    with Client(server.grpc_url, shared_memory=SMALL) as client:
        model = client.model("every_type")
        with monkeypatch.context() as full:
            full.setattr(os, "posix_fallocate", refuse)
            for _ in range(2):
                np.testing.assert_array_equal(model.infer({"fp32": rows})["fp32_out"], rows)
        told = [record for record in caplog.records if os.strerror(number) in record.getMessage()]
        assert len(told) == (2 if stays else 1)
        # Room may come again, a permission will not.
        model.infer({"fp32": rows})
        assert len(regions(server)) == stays


def test_a_server_that_hangs_is_waited_for_once_however_many_regions_it_has(server, face, monkeypatch):
    ask, deadlines = shared_memory_sending.SharedMemory._ask, []

    def late(self, operation, deadline):
        if isinstance(operation, UnregisterSharedMemory):
            deadlines.append(deadline)
            raise DeadlineExceeded("late")
        return (yield from ask(self, operation, deadline))

    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model, pool = client.model("every_type"), pool_of(client)
        model.infer({"fp32": np.ones((64, 64), np.float32)})
        (first,) = pool._free
        pool._free.clear()
        model.infer({"fp32": np.ones((64, 64), np.float32)})
        pool._free.append(first)
        monkeypatch.setattr(shared_memory_sending.SharedMemory, "_ask", late)
    assert len(deadlines) >= 2
    assert len(set(deadlines)) == 1


def test_only_names_of_this_host_whose_process_has_ended_count_as_abandoned():
    name = make_region_name()
    assert not is_abandoned(name)
    head, boot, namespace, pid, start, noise = name.split("-")
    assert is_abandoned(f"{head}-{boot}-{namespace}-{pid}-{int(start) - 1}-{noise}")
    assert not is_abandoned(f"{head}-{boot}-{int(namespace) + 1}-{pid}-{int(start) - 1}-{noise}")
    # Another machine, reached through a tunnel: the first namespace has the same number there.
    assert not is_abandoned(f"{head}-{boot[::-1]}-{namespace}-{pid}-{int(start) - 1}-{noise}")
    for other in ("", "plansmith", "psm_1234", f"{name}x", "plansmith-1-2-3-zz"):
        assert not is_abandoned(other)


def test_where_processes_cannot_be_seen_none_counts_as_ended(tmp_path, monkeypatch):
    head, boot, namespace, _, start, noise = make_region_name().split("-")
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    name = f"{head}-{boot}-{namespace}-{ended.pid}-{start}-{noise}"
    assert is_abandoned(name)
    # What /proc shows of other users' processes under hidepid: nothing.
    own = tmp_path / str(os.getpid())
    (own / "ns").mkdir(parents=True)
    for link in Path("/proc/self/ns").iterdir():
        (own / "ns" / link.name).symlink_to(link.readlink())
    (tmp_path / "self").symlink_to(own.name)
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    shutil.copy("/proc/sys/kernel/random/boot_id", tmp_path / "sys/kernel/random/boot_id")
    monkeypatch.setattr(owners, "_PROC", tmp_path)
    assert not is_abandoned(name)
    # What a process sees that has been given the /proc of another namespace: its own number is another's there.
    (tmp_path / "self").unlink()
    (tmp_path / "self").symlink_to("1")
    assert not is_abandoned(name)
    with pytest.raises(OSError, match="another namespace"):
        make_region_name()
    # What other systems have of /proc.
    monkeypatch.setattr(owners, "_PROC", tmp_path / "nowhere")
    assert not is_abandoned(name)
    with pytest.raises(OSError, match="boot_id"):
        make_region_name()


def test_a_model_that_runs_out_of_its_own_shared_memory_is_run_once(server, face):
    with open_client(face, url_of(face, server), shared_memory=SMALL) as client:
        model = client.model("cramped")

        before = model.statistics()[0].executions
        with pytest.raises(InferenceFailed, match="shared memory pool"):
            model(np.ones(4096, np.float32))
        assert len(regions(server)) == 1
        # Triton counts a request after its answer has left; a second one would have been answered, too.
        end = time.monotonic() + 20
        while model.statistics()[0].executions == before and time.monotonic() < end:
            time.sleep(0.01)
        assert model.statistics()[0].executions == before + 1


# A program of its own: gRPC skips its fork handlers while any other thread is inside gRPC, and other tests may leave
# such a thread here.
FORKING = """
import os, sys
import numpy as np
from plansmith_client import Client, SharedMemoryPolicy

policy = SharedMemoryPolicy(threshold=1024, limit=2**25)
with Client(sys.argv[1], shared_memory=policy, timeout=20) as client:
    model = client.model("every_type")
    rows = np.ones((64, 64), np.float32)
    model.infer({"fp32": rows})
    child = os.fork()
    if child == 0:
        ok = all((model.infer({"fp32": rows * 7})["fp32_out"] == 7).all() for _ in range(20))
        client.close()
        os._exit(0 if ok else 1)
    for _ in range(20):
        assert (model.infer({"fp32": rows})["fp32_out"] == 1).all()
    assert os.waitpid(child, 0)[1] == 0
    assert (model.infer({"fp32": rows})["fp32_out"] == 1).all()
"""


def test_the_child_of_a_fork_has_regions_of_its_own(server):
    done = subprocess.run(
        [sys.executable, "-c", FORKING, server.grpc_url], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert regions(server) == set()


def test_a_policy_that_makes_no_sense_is_refused():
    for wrong in ({"threshold": 0}, {"threshold": 10, "limit": 5}):
        with pytest.raises(InvalidInput):
            SharedMemoryPolicy(**wrong)
