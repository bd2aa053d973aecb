-- What pg_dump takes along. Everything that users have made, with its sequences; of the registries
-- only what they added; and not anomaly.setting, so that a restored database is paused until somebody
-- resumes it.

SELECT pg_catalog.pg_extension_config_dump('anomaly.monitor', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.detector', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.detector_state', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.model', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.entity_state', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.member_performance', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.anomaly_type', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('anomaly.strategy', 'WHERE NOT builtin');

-- A partitioned table has no rows of its own: its partitions are registered one by one.
SELECT pg_catalog.pg_extension_config_dump('anomaly.run', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_00', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_01', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_02', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_03', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_04', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_05', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_06', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_07', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_08', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_09', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_10', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_11', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_12', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_13', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_14', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_15', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_00', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_01', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_02', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_03', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_04', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_05', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_06', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_07', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_08', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_09', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_10', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_11', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_12', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_13', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_14', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_15', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_00', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_01', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_02', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_03', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_04', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_05', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_06', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_07', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_08', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_09', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_10', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_11', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_12', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_13', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_14', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_15', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_16', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_17', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_18', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_19', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_20', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_21', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_22', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_23', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_24', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_25', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_26', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_27', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_28', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_29', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_30', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.sample_31', '');

-- Without these, the first insert after a restore would hand out a number that exists.
SELECT pg_catalog.pg_extension_config_dump('anomaly.run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('anomaly.alert_id_seq', '');
