"""Decide which flags still stand after their subject was looked at anew.

Only a look takes a flag away: no refusal, no failure, no shadow, and not the want of a model.
Source: DESIGN section 4.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from triage.records import Analysis, AnalysisResult, Mode


def stands(bundle_digest: str, results: Sequence[AnalysisResult]) -> bool:
    """Whether a flag that a served bundle gave stands beside the results of a newer look.

    It does until a served model has looked, and then still where its own was to look and failed,
    or may be the one that could not be loaded: what another model sees says nothing about what
    that one saw.
    """
    served = [result for result in results if result.mode is Mode.SERVE]
    if not any(result.analysis is Analysis.ANALYSED for result in served):
        return True
    failed = [result.model for result in served if result.analysis is Analysis.FAILED]
    return any(
        model is not None and (model.digest == bundle_digest or not model.loaded)
        for model in failed
    )


def beside_flags(
    results: Sequence[AnalysisResult], flagging: AbstractSet[str]
) -> list[AnalysisResult]:
    """Return results of a new look as they are kept beside flags of these bundles that stand.

    A bundle has one current result about a subject. Where that is its flag, what it could not do
    now is said in nobody's name, as one with all that is: failed, if any of it is.
    """
    unnamed = [
        result
        for result in results
        if result.mode is Mode.SERVE and (result.model is None or result.model.digest in flagging)
    ]
    if all(result.model is None for result in unnamed):
        return list(results)
    failed = [result for result in unnamed if result.analysis is Analysis.FAILED]
    told = failed or unnamed
    reasons = dict.fromkeys(result.reason for result in told)
    one = AnalysisResult(
        model=None,
        mode=Mode.SERVE,
        analysis=told[0].analysis,
        reason=" / ".join(reasons),
        not_for_clinical_use=any(result.not_for_clinical_use for result in told),
    )
    return [one, *(result for result in results if result not in unnamed)]
