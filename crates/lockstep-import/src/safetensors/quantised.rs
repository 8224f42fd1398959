//! Recognises folders whose weights are quantised: by which tool, and what to fetch instead.
//!
//! Such folders state it in `config.json`, or have tensors whose names say so. None of them is
//! read: what their codes stand for is said by programs, in many ways.

use serde_json::{Map, Value};

use super::FolderError;

/// Methods by the name that configurations give them, and what people call them.
const METHODS: &[(&str, &str)] = &[
    ("aqlm", "AQLM"),
    ("auto-round", "AutoRound"),
    ("awq", "AWQ"),
    ("bitnet", "BitNet"),
    ("bitsandbytes", "bitsandbytes"),
    ("compressed-tensors", "compressed-tensors"),
    ("eetq", "EETQ"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("fbgemm_fp8", "FP8 (fbgemm)"),
    ("fp8", "FP8"),
    ("gptq", "GPTQ"),
    ("higgs", "HIGGS"),
    ("hqq", "HQQ"),
    ("modelopt", "NVIDIA ModelOpt (NVFP4 or FP8)"),
    ("mxfp4", "MXFP4"),
    ("nvfp4", "NVFP4"),
    ("quanto", "Quanto"),
    ("quark", "AMD Quark"),
    ("spqr", "SpQR"),
    ("torchao", "torchao"),
    ("vptq", "VPTQ"),
];

/// Ends of tensors' names that no model in F32, F16 or BF16 has, and by whom they are.
const TENSORS: &[(&str, &str)] = &[
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".bitsandbytes__nf4", "bitsandbytes"),
    (".bitsandbytes__fp4", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".q_weight", "EXL2"),
    (".q_scale", "EXL2"),
    (".q_perm", "EXL2"),
    (".trellis", "EXL3"),
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".weight_packed", "compressed-tensors"),
    (".weight_shape", "compressed-tensors"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale_2", "NVIDIA ModelOpt (NVFP4)"),
    (".weight_scale", "FP8 or compressed-tensors"),
    (".input_scale", "FP8 or NVFP4"),
    (".k_scale", "FP8"),
    (".v_scale", "FP8"),
    ("_blocks", "MXFP4"),
    ("_scales", "MXFP4"),
    (".scales", "MLX, GPTQ or AWQ"),
];

/// Refuses a configuration that says how the weights are quantised.
pub(super) fn check(values: &Map<String, Value>) -> Result<(), FolderError> {
    for key in ["quantization_config", "compression_config"] {
        let Some(stated) = values.get(key).filter(|value| !is_nothing(value)) else { continue };
        let method = stated.get("quant_method").and_then(Value::as_str);
        let by = match method {
            Some(name) => METHODS.iter().find(|(theirs, _)| *theirs == name).map_or(name, |m| m.1),
            None if stated.get("load_in_4bit").is_some() => "bitsandbytes",
            None if stated.get("load_in_8bit").is_some() => "bitsandbytes",
            None if key == "compression_config" => "compressed-tensors",
            None => "a method that config.json does not name",
        };
        return Err(FolderError::Quantised {
            by: by.chars().take(80).collect(),
            bits: bits(stated),
        });
    }
    // Settings of MLX have no method, only sizes.
    match values.get("quantization").filter(|value| !is_nothing(value)) {
        Some(stated) => Err(FolderError::Quantised { by: "MLX".to_owned(), bits: bits(stated) }),
        None => Ok(()),
    }
}

/// Returns the name of the quantiser that makes tensors of this name, if there is one.
pub(super) fn of_tensor(name: &str) -> Option<&'static str> {
    TENSORS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, by)| *by)
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

fn bits(stated: &Value) -> Option<u64> {
    let is_set = |key: &str| stated.get(key).and_then(Value::as_bool) == Some(true);
    let stated = ["bits", "w_bit", "nbits"].iter().find_map(|key| stated.get(*key)?.as_u64());
    stated
        .or_else(|| is_set("load_in_4bit").then_some(4))
        .or_else(|| is_set("load_in_8bit").then_some(8))
}
