"""The queue: jobs claimed and finished per second by worker processes, no image and no model.

A worker does what the analysis worker asks of the database for each image: claims `CLAIMED` jobs
at a time and ends each in a transaction of its own, synced. With results: the whole commit of an
analysis (result row, embedding, worklist) in place of the mere end.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from tests.benchmarks.history import History, fill
from tests.benchmarks.measuring import Conditions, Note, Row, by_turns, environment, ratio, say
from tests.benchmarks.stores import another, each_database
from tests.builders import make_arrival
from triage.database.arrivals import record_arrival
from triage.database.connection import Database, migrate, open_database
from triage.rules.policies import Policies

TITLE = "Queue: claims and finishes by worker processes"
WORKERS = (1, 4, 8)
JOBS = 1_600  # of one run, over all workers
FINISHED = 1_000_000  # rows of history
CLAIMED = 8  # at a time, as [inference] batch_size
READY = "ready"

WORKER = f"""
import sys
import time
import numpy as np
from triage.database.connection import open_database
from triage.database import queue, results
from triage.records import Analysis, AnalysisResult, Finding, JobKind, Mode, ModelIdentity
from triage.rules.policies import Policies

url, owner, whole = sys.argv[1], sys.argv[2], sys.argv[3] == "results"
db, policies = open_database(url), Policies()
finding = Finding(
    name="pneumothorax", code=None, probability=0.9, operating_point=0.5, flagged=True
)
said = AnalysisResult(
    model=ModelIdentity(name="bench", version="1", digest="d" * 64),
    mode=Mode.SERVE, analysis=Analysis.ANALYSED, findings=(finding,),
)

def turn():
    jobs = queue.claim(db, kinds=[JobKind.ANALYSE], owner=owner, lease_s=600, limit={CLAIMED})
    for job in jobs:
        if whole:
            results.commit_analysis(
                db, job, [said], pixel_digests={{job.subject_id: "p" * 64}},
                embeddings={{f"{{job.id}}": np.zeros(1152, np.float32)}},
                policies=policies, caption_due=False,
            )
        else:
            with db.write() as connection:
                queue.finish(connection, job, now=db.now(connection), reason="bench")
    return len(jobs)

turn()  # statements are compiled, connections are open
print("{READY}", flush=True)
sys.stdin.readline()
done = 0
while count := turn():
    done += count
print(done, time.monotonic(), flush=True)
db.dispose()
"""


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield jobs per second, by database, by number of workers, beside nothing and history."""
    history = History(
        studies=conditions.count(FINISHED // 10),
        instances=conditions.count(FINISHED // 10),
        events=0,
        jobs=conditions.count(FINISHED),
    )
    jobs = conditions.count(JOBS, least=32)
    for name, url, _ in each_database(conditions):
        migrate(url)
        full_url = another(url)
        say(f"  {name}: {history.jobs:,} finished jobs")
        fill(full_url, history)
        for workers in WORKERS:
            turns = {
                "empty": partial(_rate, url, workers, jobs),
                "full": partial(_rate, full_url, workers, jobs),
            }
            values = by_turns(turns, conditions)
            empty, full = values["empty"], values["full"]
            what = f"{name}, {workers} worker(s)"
            yield Row(what=what, values=empty, unit="jobs/s")
            beside = (ratio(full, to="an empty queue", of=empty),)
            what = f"{what}, {history.jobs:,} finished rows"
            yield Row(what=what, values=full, unit="jobs/s", ratios=beside)
        whole = by_turns({"full": partial(_rate, full_url, 1, jobs, whole=True)}, conditions)
        what = f"{name}, 1 worker, {history.jobs:,} finished rows, with results"
        yield Row(what=what, values=whole["full"], unit="jobs/s")
    yield Note(
        text="Every finish is one synced transaction; SQLite has one writer at a time, so its rate"
        " is bounded by the disk's syncs whatever the number of workers."
    )


def _rate(url: str, workers: int, jobs: int, *, whole: bool = False) -> float:
    """Queue `jobs` images, then time the workers from the start signal to the last finish."""
    db = open_database(url)
    _enqueue(db, jobs + workers * CLAIMED)  # each begins with a turn that does not count
    running = [_worker(url, f"worker-{number}", whole=whole) for number in range(workers)]
    for worker in running:
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != READY:
            raise RuntimeError("a worker did not start")
    started = time.monotonic()  # one clock for all processes of a host
    for worker in running:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    done, ended = 0, started
    for worker in running:
        out, _ = worker.communicate()
        if worker.returncode:
            raise RuntimeError("a worker failed")
        count, at = out.split()
        done, ended = done + int(count), max(ended, float(at))
    seconds = ended - started
    db.dispose()
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs were finished")
    return done / seconds


def _worker(url: str, owner: str, *, whole: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, owner, "results" if whole else "finish"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )


def _enqueue(db: Database, jobs: int) -> None:
    policies = Policies()
    with db.write() as connection:
        now = datetime.now(UTC)
        for _ in range(jobs):
            record_arrival(connection, make_arrival(), policies=policies, now=now)
