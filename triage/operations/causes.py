"""Everything that can be wrong with the daemon: code, weight, sentence, next step.

The codes are stable: monitoring may match them. `health` decides which apply. Each has a section
in deploy/RUNBOOK.md, and so has each code of an alarm.
"""

from dataclasses import dataclass
from enum import StrEnum

RUNBOOK = "RUNBOOK.md"  # shipped in deploy/; each code is the anchor of its section


class Weight(StrEnum):
    """What a cause does to the whole."""

    NOTICE = "notice"  # worth knowing, health stays ok
    DEGRADED = "degraded"  # works, with a loss that a person should mend
    FAILED = "failed"  # images are not received or not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    weight: Weight
    message: str  # str.format fields in braces; never patient data
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    code: str
    weight: Weight
    message: str
    next_step: str
    alarm: str = ""  # the alarm's own code, where `code` is "alarm"

    def document(self) -> dict[str, str]:
        """Return the entry of `causes` in the status JSON."""
        return {
            "code": self.code,
            "alarm": self.alarm,
            "weight": self.weight.value,
            "message": self.message,
            "next_step": self.next_step,
            "runbook": f"{RUNBOOK}#{self.alarm or self.code}",
        }


KINDS: dict[str, Kind] = {
    "database_unreachable": Kind(
        weight=Weight.FAILED,
        message="The database cannot be read, so the state of the daemon is unknown: {reason}",
        next_step="Check that the database of [database] url is up, then run `triage check`.",
    ),
    "database_revision": Kind(
        weight=Weight.FAILED,
        message="The database is at revision {found}; this program needs {needed}.",
        next_step="Run `triage migrate`, then start the daemon again; where there were data before,"
        " check first that their disk is mounted.",
    ),
    "store_unreachable": Kind(
        weight=Weight.FAILED,
        message="The store directory is missing or cannot be read.",
        next_step="Check the disk and the mount of [store] path, then run `triage check`.",
    ),
    "store_full": Kind(
        weight=Weight.FAILED,
        message="{free_mib} MiB are free on the store's file system; below {minimum_free_mib} MiB"
        " nothing is accepted.",
        next_step="Free space on the store's file system or lower [store] minimum_free_mib.",
    ),
    "store_space_low": Kind(
        weight=Weight.DEGRADED,
        message="{free_mib} MiB are free on the store's file system, close to the"
        " {minimum_free_mib} MiB below which nothing is accepted.",
        next_step="Free space, or set [store] retention_days.",
    ),
    "role_not_running": Kind(
        weight=Weight.FAILED,
        message="The role {role} is not running.",
        next_step="Start it: `systemctl start triage.target`, or `triage.service` where all roles"
        " run in one, or `triage run`; its log says why it ended.",
    ),
    "role_stuck": Kind(
        weight=Weight.FAILED,
        message="The role {role} has made no turn for {silent}.",
        next_step="Wait three minutes: it is restarted by itself. Else save its log and restart the"
        " daemon.",
    ),
    "role_fault": Kind(
        weight=Weight.FAILED,
        message="The role {role} takes nothing in at present: {reason}",
        next_step="{step}",
    ),
    "role_starting": Kind(
        weight=Weight.DEGRADED,
        message="The role {role} is starting; what arrives meanwhile waits.",
        next_step="Wait a minute; if it stays so, read the log of the role.",
    ),
    "worker_missing": Kind(
        weight=Weight.DEGRADED,
        message="{missing} of the {slots} analysis workers that [[models]] devices ask for on"
        " {host} are not running: their devices do nothing.",
        next_step="Enable one unit for each device: `systemctl enable --now triage-analyse@0"
        " triage-analyse@1`; if they are enabled, the log says why one ended.",
    ),
    "no_model": Kind(
        weight=Weight.DEGRADED,
        message="No model is configured: studies arrive and are listed, nothing looks at them.",
        next_step="Name a bundle under [[models]] in triage.toml, then restart.",
    ),
    "model_not_served": Kind(
        weight=Weight.DEGRADED,
        message="The model {model} is not served: {reason}",
        next_step="{hint}",
    ),
    "model_not_calibrated": Kind(
        weight=Weight.DEGRADED,
        message="The model {model} is configured to serve but flags nothing{where}: {reason}.",
        next_step="{hint}",
    ),
    "no_model_served": Kind(
        weight=Weight.FAILED,
        message="No configured model serves: nothing is flagged, and studies that no model looks at"
        " wait.",
        next_step="Run `triage check`; it tries every bundle with its known answer and says which"
        " is a shadow only.",
    ),
    "queue_late": Kind(
        weight=Weight.DEGRADED,
        message="The oldest waiting analysis has been due for {waiting}.",
        next_step="See `queue` and `roles` of `triage status`; add a device if it stays so.",
    ),
    "dead_letters": Kind(
        weight=Weight.DEGRADED,
        message="{count} jobs have failed for good; their studies are shown as failed.",
        next_step="See `triage show STUDY` for the reason, mend it, then `triage requeue STUDY`.",
    ),
    "quarantine": Kind(
        weight=Weight.DEGRADED,
        message="{count} objects were not taken in and are kept aside.",
        next_step="See `triage quarantine list`; release or discard each.",
    ),
    "alarm": Kind(
        weight=Weight.DEGRADED,
        message="{message}",
        next_step="{next_step}",
    ),
    "sender_silent": Kind(
        weight=Weight.DEGRADED,
        message="{sender} has sent nothing since {last_image_at}; in its busy hours it usually"
        " sends at least every {usual}.",
        next_step="Look whether it is switched on and reaches this host; if it is gone for good,"
        " add it to [senders] ignore.",
    ),
    "metrics_unavailable": Kind(
        weight=Weight.DEGRADED,
        message="The metrics are not served on {host} port {port}: {reason}",
        next_step="Free the port or set another [metrics] port; `triage metrics` prints the same.",
    ),
    "expired_unread": Kind(
        weight=Weight.NOTICE,
        message="{count} unread flagged studies are past [store] retention_days and kept"
        " ({size_mib} MiB).",
        next_step="Have them read or acknowledged: `triage acknowledge STUDY`.",
    ),
    "demonstration": Kind(
        weight=Weight.NOTICE,
        message="Demonstration mode: the built-in model is not for clinical use.",
        next_step="Set demonstration = false and name a validated bundle under [[models]].",
    ),
}


def cause(code: str, *, alarm: str = "", **fields: object) -> Cause:
    """Fill in one entry of KINDS."""
    kind = KINDS[code]
    return Cause(
        code=code,
        weight=kind.weight,
        message=kind.message.format(**fields),
        next_step=kind.next_step.format(**fields),
        alarm=alarm,
    )
