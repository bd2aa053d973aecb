#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anomaly_core_fuzz::recurrence(data));
