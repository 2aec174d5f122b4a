#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| portside_fuzz::proxy_header(input));
