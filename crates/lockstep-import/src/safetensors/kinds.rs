//! The kinds of models that come as folders: what `config.json` calls them, which settings they
//! have, and what GGUF files call their tensors.

use super::{FolderError, quantised};

/// The properties in which a kind of model differs from others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The value of `model_type` in `config.json`.
    model_type: &'static str,
    /// The name of the architecture in GGUF files.
    pub(super) architecture: &'static str,
    /// Settings that it has besides those of all kinds.
    pub(super) settings: &'static [&'static str],
    /// The name of the activation of its gate in the settings.
    pub(super) activation: &'static str,
    /// Parts of a layer that it has besides [`PARTS`], or in place of one, and what GGUF files
    /// call them.
    parts: &'static [(&'static str, &'static str)],
    /// The names of its experts, if it has any.
    pub(super) experts: Option<Experts>,
    /// The parts of a layer that have a bias.
    pub(super) biases: Biases,
    /// Which layers see a window of positions only, if there is one.
    pub(super) window: Window,
    /// GGUF files interleave the rows of query and key heads.
    interleaved: bool,
    /// The embedding is the output matrix too, unless the settings say otherwise.
    pub(super) is_tied: bool,
    /// Gains of norms are stored less 1; in GGUF files they are whole.
    less_one: bool,
}

/// The products of a layer that have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Biases {
    None,
    /// Queries, keys and values always have biases.
    Always,
    /// Those and the attention output, if `attention_bias` is set.
    Stated,
}

/// Which layers a stated window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    None,
    All,
    /// All layers but every n-th have a window.
    Pattern,
}

/// Experts by number, and which layers have them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Experts {
    /// The text that stands before an expert's number in names of tensors.
    prefix: &'static str,
    /// Parts of an expert, and what GGUF files call them.
    parts: &'static [(&'static str, &'static str)],
    /// The name of the setting with the number of experts.
    pub(super) count: &'static str,
    /// Settings may say that some layers have none.
    pub(super) some_layers: bool,
}

/// Parts of a layer, and what GGUF files call them.
const PARTS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.v_proj", "attn_v"),
];
/// The tensors of the norms of query and key heads, by both names.
const HEAD_NORMS: &[(&str, &str)] =
    &[("self_attn.k_norm", "attn_k_norm"), ("self_attn.q_norm", "attn_q_norm")];
/// The norm that others call so is before the feed-forward part; here it is behind attention.
const GEMMA_PARTS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
];
const PHI_PARTS: &[(&str, &str)] =
    &[("mlp.gate_up_proj", "ffn_up"), ("self_attn.qkv_proj", "attn_qkv")];

const MIXTRAL_PARTS: &[(&str, &str)] = &[("block_sparse_moe.gate", "ffn_gate_inp")];
const MIXTRAL_EXPERTS: Experts = Experts {
    prefix: "block_sparse_moe.experts.",
    parts: &[("w1", "ffn_gate"), ("w2", "ffn_down"), ("w3", "ffn_up")],
    count: "num_local_experts",
    some_layers: false,
};
const QWEN_2_MOE_PARTS: &[(&str, &str)] = &[
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];
const QWEN_3_MOE_PARTS: &[(&str, &str)] = &[
    ("mlp.gate", "ffn_gate_inp"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
];
const QWEN_EXPERTS: Experts = Experts {
    prefix: "mlp.experts.",
    parts: &[("down_proj", "ffn_down"), ("gate_proj", "ffn_gate"), ("up_proj", "ffn_up")],
    count: "num_experts",
    some_layers: true,
};

/// Settings of models in which some layers may have a window, and none has one.
const QWEN_SETTINGS: &[&str] = &["max_window_layers", "sliding_window"];
const MIXTRAL_SETTINGS: &[&str] = &["num_experts_per_tok", "num_local_experts", "sliding_window"];
const QWEN_2_MOE_SETTINGS: &[&str] = &[
    "decoder_sparse_step",
    "max_window_layers",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "qkv_bias",
    "shared_expert_intermediate_size",
    "sliding_window",
];
const QWEN_3_MOE_SETTINGS: &[&str] = &[
    "decoder_sparse_step",
    "max_window_layers",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "sliding_window",
];

const LLAMA: Kind = Kind {
    model_type: "llama",
    architecture: "llama",
    settings: &["attention_bias"],
    activation: "silu",
    parts: &[],
    experts: None,
    biases: Biases::Stated,
    window: Window::None,
    interleaved: true,
    is_tied: false,
    less_one: false,
};

/// The kinds of models that can be imported.
const KINDS: [Kind; 9] = [
    LLAMA,
    Kind {
        model_type: "mistral",
        settings: &["sliding_window"],
        biases: Biases::None,
        window: Window::All,
        ..LLAMA
    },
    Kind {
        model_type: "mixtral",
        settings: MIXTRAL_SETTINGS,
        parts: MIXTRAL_PARTS,
        experts: Some(MIXTRAL_EXPERTS),
        biases: Biases::None,
        window: Window::All,
        ..LLAMA
    },
    Kind {
        model_type: "qwen2_moe",
        architecture: "qwen2moe",
        settings: QWEN_2_MOE_SETTINGS,
        parts: QWEN_2_MOE_PARTS,
        experts: Some(QWEN_EXPERTS),
        biases: Biases::Always,
        interleaved: false,
        ..LLAMA
    },
    Kind {
        model_type: "qwen3_moe",
        architecture: "qwen3moe",
        settings: QWEN_3_MOE_SETTINGS,
        parts: QWEN_3_MOE_PARTS,
        experts: Some(QWEN_EXPERTS),
        biases: Biases::None,
        interleaved: false,
        ..LLAMA
    },
    Kind {
        model_type: "qwen2",
        architecture: "qwen2",
        settings: QWEN_SETTINGS,
        biases: Biases::Always,
        interleaved: false,
        ..LLAMA
    },
    Kind {
        model_type: "qwen3",
        architecture: "qwen3",
        settings: QWEN_SETTINGS,
        parts: HEAD_NORMS,
        biases: Biases::None,
        interleaved: false,
        ..LLAMA
    },
    Kind {
        model_type: "gemma3_text",
        architecture: "gemma3",
        settings: &[
            "_sliding_window_pattern",
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "sliding_window",
            "sliding_window_pattern",
        ],
        activation: "gelu_pytorch_tanh",
        parts: GEMMA_PARTS,
        experts: None,
        biases: Biases::None,
        window: Window::Pattern,
        interleaved: false,
        is_tied: true,
        less_one: true,
    },
    Kind {
        model_type: "phi3",
        architecture: "phi3",
        settings: &["original_max_position_embeddings", "partial_rotary_factor", "sliding_window"],
        parts: PHI_PARTS,
        biases: Biases::None,
        window: Window::All,
        interleaved: false,
        ..LLAMA
    },
];

/// The name that GGUF files have for a tensor, and how their numbers differ from the stored ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) name: String,
    /// Size of a head whose rows are half-split, where GGUF files interleave them.
    pub(super) half_split: Option<usize>,
    /// Whether the numbers are stored less 1.
    pub(super) less_one: bool,
}

impl Kind {
    pub(super) fn find(model_type: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.model_type == model_type)
    }

    /// Returns the tensor called `name`, in a model whose heads have `head_dim` elements and whose
    /// products have the `biases`; `None` if GGUF files leave it out.
    pub(super) fn translated(
        &self,
        name: &str,
        is_tied: bool,
        biases: Biases,
        head_dim: usize,
    ) -> Result<Option<Translation>, FolderError> {
        let outside = match name {
            "model.embed_tokens.weight" => Some("token_embd"),
            "model.norm.weight" => Some("output_norm"),
            // The embedding's copy, which some exporters write.
            "lm_head.weight" if is_tied => return Ok(None),
            "lm_head.weight" => Some("output"),
            _ => None,
        };
        if let Some(outside) = outside {
            return Ok(Some(self.translation(format!("{outside}.weight"), outside, head_dim)));
        }
        let unknown = || match quantised::of_tensor(name) {
            Some(by) => FolderError::Quantised { by: by.to_owned(), bits: None },
            None => FolderError::UnknownTensor {
                name: name.to_owned(),
                architecture: self.architecture,
            },
        };
        let inside = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let (layer, part) = inside.ok_or_else(unknown)?;
        let layer: u32 = layer.parse().map_err(|_| unknown())?;
        if part == "self_attn.rotary_emb.inv_freq" {
            return Ok(None);
        }
        let (part, what) = part.rsplit_once('.').ok_or_else(unknown)?;
        if let Some((expert, part)) = self.of_expert(part).filter(|_| what == "weight") {
            let name = format!("blk.{layer}.{part}.{expert}.weight");
            return Ok(Some(self.translation(name, part, head_dim)));
        }
        let mut parts = self.parts.iter().chain(PARTS);
        let known = parts.find(|(theirs, _)| *theirs == part);
        let (_, part) = known.ok_or_else(unknown)?;
        let has_bias = match biases {
            Biases::None => false,
            Biases::Always => ["attn_q", "attn_k", "attn_v"].contains(part),
            Biases::Stated => ["attn_q", "attn_k", "attn_v", "attn_output"].contains(part),
        };
        if what != "weight" && !(what == "bias" && has_bias) {
            return Err(unknown());
        }
        Ok(Some(self.translation(format!("blk.{layer}.{part}.{what}"), part, head_dim)))
    }

    /// Returns the number of an expert, and what GGUF files call one of its parts.
    fn of_expert(&self, part: &str) -> Option<(u32, &'static str)> {
        let experts = self.experts.as_ref()?;
        let (expert, part) = part.strip_prefix(experts.prefix)?.split_once('.')?;
        let (_, part) = experts.parts.iter().find(|(theirs, _)| *theirs == part)?;
        Some((expert.parse().ok()?, part))
    }

    fn translation(&self, name: String, part: &str, head_dim: usize) -> Translation {
        let is_turned = self.interleaved && matches!(part, "attn_q" | "attn_k");
        let half_split = is_turned.then_some(head_dim);
        Translation { name, half_split, less_one: self.less_one && part.ends_with("norm") }
    }
}
