-- The reading worklist: the columns of DESIGN section 6, in their order.
-- reading_order counts the open studies; a study that is off the list has none.
CREATE VIEW worklist AS
WITH listed AS (
    SELECT id, row_number() OVER (ORDER BY sort_key, study_instance_uid, id) AS reading_order
    FROM studies
    WHERE sort_key IS NOT NULL
    UNION ALL
    SELECT id, NULL FROM studies WHERE sort_key IS NULL
)
SELECT
    1 AS schema_version,
    listed.reading_order,
    study_instance_uid,
    accession_number,
    patient_id,
    issuer_of_patient_id,
    patient_name,
    patient_sex,
    patient_birth_date,
    referring_physician_name,
    institution_name,
    station_name,
    current_patient_location,
    sender_ae_title,
    study_description,
    study_date,
    study_time,
    study_datetime,
    modalities_in_study,
    body_part_examined,
    number_of_study_related_instances,
    received_at,
    analysed_at,
    flagged_at,
    acknowledged_at,
    acknowledged_by,
    state,
    generation,
    analysis,
    analysis_reason,
    images_eligible,
    images_analysed,
    priority,
    priority_source,
    priority_reason,
    order_priority,
    findings,
    caption,
    models,
    :waiting_s AS waiting_s,
    not_for_clinical_use
FROM listed JOIN studies ON studies.id = listed.id
