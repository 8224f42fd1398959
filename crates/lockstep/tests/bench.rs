//! The contract of `lockstep bench`: what it refuses, and the figures that scripts read.

mod support;

use serde_json::Value;
use support::{MODEL, lockstep};

/// As little as can be measured.
const LITTLE: [&str; 9] =
    ["--prefill", "20", "--decode", "4", "--repetitions", "1", "--threads", "1", "--json"];

fn is_above_zero(report: &Value, key: &str) {
    assert!(report[key].as_f64().is_some_and(|number| number > 0.0), "{key}: {report}");
}

#[test]
fn an_unknown_shape_is_refused_with_the_list_of_shapes() {
    let said = lockstep(&["bench", "--shape", "llama"]).expect_code(2).stderr;
    for name in ["\"llama\"", "smollm2-135m", "llama-3.2-1b", "llama-3.1-8b-layers"] {
        assert!(said.contains(name.trim_matches('"')), "{name}: {said}");
    }
}

#[test]
fn a_model_and_a_shape_and_numbers_out_of_range_are_refused() {
    let both = ["bench", MODEL, "--shape", "smollm2-135m"];
    lockstep(&both).expect_code(2);
    for wrong in ["--threads", "--prefill", "--decode", "--repetitions", "--context"] {
        lockstep(&["bench", MODEL, wrong, "0"]).expect_code(2);
    }
    let long = ["bench", MODEL, "--prefill", "1000000", "--rates-only"];
    let said = lockstep(&long).expect_code(2).stderr;
    assert!(said.contains("positions"), "{said}");
}

#[test]
fn a_model_is_measured_beside_the_machine_and_the_verifier() {
    let more = ["bench", MODEL, "--servers", "0", "--batch", "2,3", "--context", "40", "--verify"];
    let report = lockstep(&[&more[..], &LITTLE].concat()).expect_code(0).json();
    for key in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "batch_decode_tokens_per_s",
        "read_bandwidth_gb_s",
        "decode_bandwidth_share",
        "decode_products_bandwidth_share",
        "algebra_us_per_layer_token",
        "audit_ms_per_token",
    ] {
        is_above_zero(&report, key);
    }
    for key in ["int8_peak_gmac_s", "prefill_peak_share", "prefill_products_peak_share"] {
        assert!(report.get(key).is_some(), "{key}: {report}");
    }
    is_above_zero(&report["single"]["batch_decode_tokens_per_s"]["3"], "median");
    is_above_zero(&report["context"]["decode_tokens_per_s"], "median");
    assert_eq!(report["batch_sessions"], 2);
    assert_eq!(report["threads"], 1);
}

#[test]
fn a_shape_is_measured_without_a_model_and_leaves_no_file() {
    let home = support::Folder::new("bench-shape");
    let arguments = ["bench", "--shape", "smollm2-135m", "--rates-only"];
    let ended = support::lockstep_in(home.path(), &[&arguments[..], &LITTLE].concat());
    let report = ended.expect_code(0).json();
    assert_eq!((&report["shape"], &report["layers"]), (&"smollm2-135m".into(), &30.into()));
    is_above_zero(&report, "prefill_tokens_per_s");
    is_above_zero(&report, "decode_tokens_per_s");
    assert!(report.get("read_bandwidth_gb_s").is_none(), "{report}");
    for folder in ["tmp", "blobs", "models"] {
        let left = std::fs::read_dir(home.path().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }
}
