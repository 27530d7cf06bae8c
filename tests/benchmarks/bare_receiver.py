"""A peer: the shortest durable receiver that pynetdicom allows. FOLDER PORT.

Writes the bytes as they came, syncs the file, answers Success. No checks, no directory sync, no
database: what is lost against it is what the program does beyond.
"""

import os
import sys
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event


def main(folder: Path, port: int) -> None:
    def store(event: Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        with path.open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        return 0x0000

    entity = AE(ae_title="TRIAGE")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
