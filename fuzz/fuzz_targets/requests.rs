//! `castd::fuzz::requests` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    castd::fuzz::requests(data);
});
