"""Many looks at studies written straight into the tables, as a served bundle would leave them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from tests.builders import make_header
from triage.database.connection import Database
from triage.database.documents import header_document
from triage.database.statements import insert_rows
from triage.database.tables import Embedding, Instance, ResultRow, Series, Study
from triage.inference.bundle import Bundle

BEGIN = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
MINUTES_APART = 3


@dataclass
class Looks:
    """Adds studies one after the other; `now` is well after the last look."""

    db: Database
    bundle: Bundle
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(8))
    count: int = 0

    @property
    def now(self) -> datetime:
        return BEGIN + timedelta(minutes=MINUTES_APART * self.count + 60)

    def add(
        self,
        studies: int,
        *,
        station: str = "ROOM 1",
        shift: float = 0.0,
        gate_rate: float = 0.01,
        **result: Any,
    ) -> None:
        """Add first looks; `shift` moves their embeddings, in deviations of the bank."""
        vectors = self._vectors(studies, shift)
        with self.db.read() as connection:
            used = [
                connection.execute(select(func.coalesce(func.max(table.id), 0))).scalar_one()
                for table in (Study, Series, Instance, ResultRow)
            ]
        rows = []
        for n in range(studies):
            gated = bool(self.random.random() < gate_rate)
            rows.append(self._rows(used, n, vectors[n], station=station, gated=gated, **result))
        with self.db.write() as connection:
            for place, table in enumerate((Study, Series, Instance, ResultRow, Embedding)):
                insert_rows(connection, table, [each[place] for each in rows])
        self.count += studies

    def _vectors(self, studies: int, shift: float) -> NDArray[np.float32]:
        bank = self.bundle.bank
        assert bank is not None
        chosen = bank.units[self.random.integers(0, len(bank.units), studies)]
        noise = 0.02 * self.random.standard_normal(chosen.shape)
        push = np.random.default_rng(0).standard_normal(chosen.shape[1])
        units = chosen + noise + shift * push / np.linalg.norm(push)
        return np.asarray(units * bank.scale + bank.mean, np.float32)

    def _rows(
        self,
        used: list[int],
        n: int,
        vector: NDArray[np.float32],
        *,
        station: str,
        gated: bool,
        **result: Any,
    ) -> tuple[dict[str, Any], ...]:
        study_id, series_id, instance_id, result_id = (each + n + 1 for each in used)
        at = BEGIN + timedelta(minutes=MINUTES_APART * (self.count + n))
        key = f"key {result_id}"
        probability = float(1.0 / (1.0 + np.exp(-self.random.normal(-3.0, 1.5))))
        finding = {
            "name": self.bundle.manifest.findings[0].name,
            "code": None,
            "probability": probability,
            "operating_point": 0.45,
            "flagged": probability >= 0.45,
            "raises_to": "HIGH",
        }
        header = make_header(modality="CR", body_part_examined="CHEST", station_name=station)
        times = {"received_at": at, "waiting_since": at, "last_instance_at": at, "window_at": at}
        uid = f"1.2.{study_id}"
        return (
            {
                "id": study_id,
                "study_instance_uid": uid,
                "patient_id": f"P{study_id}",
                "issuer_of_patient_id": "",
                "modalities_in_study": ["CR"],
                **times,
                "state": "ready",
                "generation": 1,
                "too_old": False,
                "two_patients": False,
                "analysis": "analysed",
                "findings": [],
                "models": [],
                "not_for_clinical_use": True,
                "priority": "ROUTINE",
                "priority_source": "default",
                "order_priority": "ROUTINE",
                "order_priority_source": "default",
                "sort_key": None,
            },
            {
                "id": series_id,
                "study_id": study_id,
                "series_instance_uid": f"{uid}.1",
                "modality": "CR",
                "window_at": at,
                "first_instance_at": at,
                "last_instance_at": at,
                "images": 0,
                "generation": 0,
            },
            {
                "id": instance_id,
                "study_id": study_id,
                "series_id": series_id,
                "sop_instance_uid": f"{uid}.1.1",
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "digest": f"{instance_id:064x}",
                "path": f"objects/{instance_id}.dcm",
                "size_bytes": 1000,
                "source": "c-store",
                "sender_ae_title": "CR1",
                "received_at": at,
                "state": "stored",
                "subject": "image",
                "header": header_document(header),
                "generation": 1,
            },
            {
                "id": result_id,
                "subject": "image",
                "subject_id": instance_id,
                "study_id": study_id,
                "generation": 1,
                "bundle_name": self.bundle.identity.name,
                "bundle_version": self.bundle.identity.version,
                "bundle_digest": self.bundle.identity.digest,
                "mode": "serve",
                "analysis": "not_eligible" if gated else "analysed",
                "reason": "image is unlike those the model was made for" if gated else "",
                "findings": [] if gated else [finding],
                "distance": float(self.random.gamma(8.0, 0.02)),
                "not_for_clinical_use": True,
                "embedding_keys": [key],
                "current": True,
                "created_at": at,
                **result,
            },
            {
                "key": key,
                "dimension": vector.size,
                "vector": vector.astype("<f4").tobytes(),
                "created_at": at,
            },
        )
