"""A file is read when it is whole: not while it grows, and at once when its writer is done."""

from pathlib import Path

from tests.assurance import requirement
from triage.ingest.mounts import filesystem_type, mount_point, needs_polling, unmounted
from triage.ingest.stability import Stamp, Tracker

FILE = Path("/in/a.dcm")


def stamp(size_bytes: int, mtime_ns: int = 1) -> Stamp:
    return Stamp(size_bytes=size_bytes, mtime_ns=mtime_ns)


def ready(tracker: Tracker, now_s: float) -> list[Path]:
    return [candidate.path for candidate in tracker.ready(now_s)]


def test_a_new_file_waits_until_it_has_not_changed_for_long_enough() -> None:
    tracker = Tracker(stable_s=5)
    tracker.observe(FILE, stamp(10), 100)
    assert ready(tracker, 104.9) == []
    assert ready(tracker, 105) == [FILE]


def test_growth_and_a_new_time_each_begin_the_wait_anew() -> None:
    tracker = Tracker(stable_s=5)
    tracker.observe(FILE, stamp(10), 100)
    tracker.observe(FILE, stamp(20), 104)
    assert ready(tracker, 108) == []
    tracker.observe(FILE, stamp(20, mtime_ns=2), 108)
    assert ready(tracker, 112.9) == []
    assert ready(tracker, 113) == [FILE]


def test_looking_again_at_an_unchanged_file_does_not_prolong_the_wait() -> None:
    tracker = Tracker(stable_s=5)
    for now_s in range(100, 106):
        tracker.observe(FILE, stamp(10), now_s)
    assert ready(tracker, 105) == [FILE]


def test_a_closed_file_is_ready_at_once_until_it_proves_not_to_be_whole() -> None:
    tracker = Tracker(stable_s=5)
    tracker.observe(FILE, stamp(10), 100, closed=True)
    assert ready(tracker, 100) == [FILE]
    tracker.not_whole(FILE)
    assert ready(tracker, 104) == []
    assert ready(tracker, 105) == [FILE]


def test_a_closed_file_that_grows_again_is_no_longer_closed() -> None:
    tracker = Tracker(stable_s=5)
    tracker.observe(FILE, stamp(10), 100, closed=True)
    tracker.observe(FILE, stamp(20), 101)
    assert ready(tracker, 102) == []


def test_the_longest_unchanged_file_comes_first() -> None:
    tracker = Tracker(stable_s=5)
    other = Path("/in/b.dcm")
    tracker.observe(FILE, stamp(10), 101)
    tracker.observe(other, stamp(10), 100)
    assert ready(tracker, 200) == [other, FILE]
    tracker.forget(other)
    assert ready(tracker, 200) == [FILE]
    assert len(tracker) == 1


MOUNTINFO = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/pacs rw shared:1 - nfs4 pacs:/export rw
31 22 0:41 / /mnt/with\\040blank rw - cifs //srv/x rw
32 22 0:42 / /mnt/user rw - fuse.sshfs x rw
33 30 8:2 / /mnt/pacs/local rw - xfs /dev/sdb1 rw
"""


@requirement("G6")
def test_the_innermost_mount_tells_the_file_system() -> None:
    assert filesystem_type(Path("/srv/in"), MOUNTINFO) == "ext4"
    assert filesystem_type(Path("/mnt/pacs/in"), MOUNTINFO) == "nfs4"
    assert filesystem_type(Path("/mnt/pacs/local/in"), MOUNTINFO) == "xfs"
    assert filesystem_type(Path("/mnt/pacsother"), MOUNTINFO) == "ext4"
    assert filesystem_type(Path("/mnt/with blank"), MOUNTINFO) == "cifs"


@requirement("G6")
def test_network_mounts_are_polled() -> None:
    assert needs_polling(Path("/mnt/pacs/in"), MOUNTINFO)
    assert needs_polling(Path("/mnt/user"), MOUNTINFO)
    assert not needs_polling(Path("/srv/in"), MOUNTINFO)
    assert not needs_polling(Path("/srv/in"), "")


FSTAB = """\
# /etc/fstab
/dev/sda1 / ext4 defaults 0 1
pacs:/export /mnt/pacs nfs4 _netdev 0 0
pacs:/other /mnt/other nfs4 _netdev 0 0
//srv/y /mnt/with\\040tab cifs credentials=/root/c 0 0
/dev/sda2 none swap sw 0 0
"""


@requirement("G6")
def test_a_folder_whose_mount_is_not_there_is_told_by_its_mount_point() -> None:
    assert unmounted(Path("/mnt/pacs/in"), MOUNTINFO, FSTAB) is None
    assert unmounted(Path("/mnt/other/in"), MOUNTINFO, FSTAB) == Path("/mnt/other")
    assert unmounted(Path("/mnt/other"), MOUNTINFO, FSTAB) == Path("/mnt/other")
    assert unmounted(Path("/mnt/with tab/a"), MOUNTINFO, FSTAB) == Path("/mnt/with tab")
    assert unmounted(Path("/srv/in"), MOUNTINFO, FSTAB) is None
    assert unmounted(Path("/mnt/other/in"), "", FSTAB) is None  # nothing is known of mounts


def test_the_mount_point_of_a_path_is_the_innermost() -> None:
    assert mount_point(Path("/mnt/pacs/local/in"), MOUNTINFO) == Path("/mnt/pacs/local")
    assert mount_point(Path("/srv"), MOUNTINFO) == Path("/")
