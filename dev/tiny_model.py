#!/usr/bin/env python3
"""Writes a tiny model of random weights twice, as a GGUF file and as a folder of safetensors files.

    python3 dev/tiny_model.py gemma3 OUT
    lockstep import OUT/tiny.gguf --name a && lockstep import OUT/tiny --name b   # one id

The folder is written first, as its own exporters write it; the GGUF file is made of it with the
steps of llama.cpp's converter: names, the order of query and key rows, Gemma's gains plus 1, experts
stacked, rotary factors in binary32. Nothing here knows how Lockstep reads either. Standard library only.
"""
import json
import math
import pathlib
import random
import struct
import sys

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, LAYERS, CONTEXT = 64, 4, 2, 16, 96, 4, 256
QUERIES, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
EXPERTS, USED, EXPERT_INNER, SHARED_INNER = 5, 2, 40, 56
SPECIAL = ["<|begin|>", "<|im_end|>"]
MERGES = ["t h", "th e", "\u0120 the", "\u0120 t", "i n"]
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x):
    """The nearest number whose low half is zero, so that both forms hold it exactly."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return struct.unpack("<f", struct.pack("<I", (bits + 0x8000) & 0xFFFF0000))[0]


class Random:
    def __init__(self):
        self.numbers = random.Random(2026)

    def rows(self, rows, columns, middle=0.0):
        unit = lambda: bf16(middle + self.numbers.uniform(-0.5, 0.5))
        return [[unit() for _ in range(columns)] for _ in range(rows)]


FAMILIES = {
    "llama": {},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 128,
              "max_window_layers": LAYERS},
    "qwen3": {"model_type": "qwen3", "head_dim": HEAD_DIM, "use_sliding_window": False},
    "mixtral": {"model_type": "mixtral", "num_local_experts": EXPERTS, "sliding_window": None,
                "num_experts_per_tok": USED, "router_aux_loss_coef": 0.02},
    "qwen2moe": {"model_type": "qwen2_moe", "use_sliding_window": False, "num_experts": EXPERTS,
                 "num_experts_per_tok": USED, "moe_intermediate_size": EXPERT_INNER,
                 "shared_expert_intermediate_size": SHARED_INNER, "norm_topk_prob": False,
                 "decoder_sparse_step": 1, "mlp_only_layers": [], "qkv_bias": True},
    "qwen3moe": {"model_type": "qwen3_moe", "head_dim": HEAD_DIM, "num_experts": EXPERTS,
                 "num_experts_per_tok": USED, "moe_intermediate_size": EXPERT_INNER,
                 "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "gemma3": {"model_type": "gemma3_text", "head_dim": HEAD_DIM, "rope_theta": 1e6,
               "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
               "sliding_window": 32, "query_pre_attn_scalar": HEAD_DIM,
               "rope_scaling": {"rope_type": "linear", "factor": 8.0},
               "rope_local_base_freq": 10000.0,
               "layer_types": ["sliding_attention"] * LAYERS},
    "phi3": {"model_type": "phi3", "sliding_window": 40, "partial_rotary_factor": 0.5,
             "original_max_position_embeddings": 64, "rope_scaling": {
                 "type": "longrope", "long_factor": [4.0, 4.3, 5.0, 7.7],
                 "short_factor": [1.0, 1.1, 1.2, 1.3]}},
}


def config(family, vocabulary):
    plain = {
        "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "vocab_size": vocabulary, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "bos_token_id": 256 + len(MERGES), "use_cache": True,
    }
    return plain | FAMILIES[family]


def alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in own]
    return [chr(byte) if byte in own else chr(256 + moved.index(byte)) for byte in range(256)]


def texts():
    return alphabet() + [merge.replace(" ", "") for merge in MERGES] + SPECIAL


def tensors(family, numbers, vocabulary):
    """Of the folder: name, rows."""
    yield "model.embed_tokens.weight", numbers.rows(vocabulary, HIDDEN)
    yield "lm_head.weight", numbers.rows(vocabulary, HIDDEN)
    middle = 0.0 if family == "gemma3" else 1.0
    norm = lambda size: numbers.rows(1, size, middle)[0]
    yield "model.norm.weight", norm(HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", norm(HIDDEN)
        yield at + "post_attention_layernorm.weight", norm(HIDDEN)
        if family == "gemma3":
            yield at + "pre_feedforward_layernorm.weight", norm(HIDDEN)
            yield at + "post_feedforward_layernorm.weight", norm(HIDDEN)
        if family in ("gemma3", "qwen3", "qwen3moe"):
            yield at + "self_attn.q_norm.weight", norm(HEAD_DIM)
            yield at + "self_attn.k_norm.weight", norm(HEAD_DIM)
        if family == "phi3":
            yield at + "self_attn.qkv_proj.weight", numbers.rows(QUERIES + 2 * KV, HIDDEN)
            yield at + "mlp.gate_up_proj.weight", numbers.rows(2 * INNER, HIDDEN)
        else:
            for part, rows in (("q", QUERIES), ("k", KV), ("v", KV)):
                yield at + f"self_attn.{part}_proj.weight", numbers.rows(rows, HIDDEN)
                if family in ("qwen2", "qwen2moe"):
                    yield at + f"self_attn.{part}_proj.bias", numbers.rows(1, rows)[0]
        yield at + "self_attn.o_proj.weight", numbers.rows(HIDDEN, QUERIES)
        if family in MIXTURES:
            yield from experts(family, numbers, at)
            continue
        if family != "phi3":
            yield at + "mlp.gate_proj.weight", numbers.rows(INNER, HIDDEN)
            yield at + "mlp.up_proj.weight", numbers.rows(INNER, HIDDEN)
        yield at + "mlp.down_proj.weight", numbers.rows(HIDDEN, INNER)


MIXTURES = ("mixtral", "qwen2moe", "qwen3moe")


def experts(family, numbers, at):
    """Of a layer: name, rows."""
    is_mixtral = family == "mixtral"
    prefix, inner = ("block_sparse_moe", INNER) if is_mixtral else ("mlp", EXPERT_INNER)
    yield at + prefix + ".gate.weight", numbers.rows(EXPERTS, HIDDEN)
    gate, down, up = ("w1", "w2", "w3") if is_mixtral else ("gate_proj", "down_proj", "up_proj")
    for expert in range(EXPERTS):
        for part, rows, columns in ((gate, inner, HIDDEN), (up, inner, HIDDEN), (down, HIDDEN, inner)):
            yield at + f"{prefix}.experts.{expert}.{part}.weight", numbers.rows(rows, columns)
    if family == "qwen2moe":
        yield at + "mlp.shared_expert_gate.weight", numbers.rows(1, HIDDEN)
        for part in ("gate_proj", "up_proj"):
            yield at + f"mlp.shared_expert.{part}.weight", numbers.rows(SHARED_INNER, HIDDEN)
        yield at + "mlp.shared_expert.down_proj.weight", numbers.rows(HIDDEN, SHARED_INNER)


def flat(rows):
    return [x for row in rows for x in flat(row)] if isinstance(rows[0], list) else rows


def shape(rows):
    return [len(rows), *shape(rows[0])] if isinstance(rows, list) else []


def write_folder(folder, settings, named):
    folder.mkdir(parents=True, exist_ok=True)
    shards = [named[:7], named[7:]]
    index = {}
    for number, shard in enumerate(shards, 1):
        name, data, header = f"model-{number:05}-of-00002.safetensors", b"", {}
        for tensor, rows in shard:
            packed = b"".join(struct.pack("<f", x)[2:] for x in flat(rows))
            header[tensor] = {"dtype": "BF16", "shape": shape(rows),
                              "data_offsets": [len(data), len(data) + len(packed)]}
            data += packed
            index[tensor] = name
        header = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + data)
    ordinary = texts()[:-len(SPECIAL)]
    special = [{"id": len(ordinary) + at, "content": text, "special": True}
               for at, text in enumerate(SPECIAL)]
    tokenizer = {
        "added_tokens": special, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]},
        "model": {"type": "BPE", "vocab": {text: id_ for id_, text in enumerate(ordinary)},
                  "merges": MERGES},
    }
    files = {
        "config.json": settings, "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"eos_token": SPECIAL[1], "add_bos_token": False},
        "model.safetensors.index.json": {"weight_map": index},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
EXPERT_NAMES = {
    "w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps",
    "gate_proj": "ffn_gate_exps", "down_proj": "ffn_down_exps", "up_proj": "ffn_up_exps",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def converted(family, name, rows):
    stem, what = name.rsplit(".", 1)
    names = NAMES | (GEMMA_NAMES if family == "gemma3" else {})
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        out = f"blk.{layer}.{names[part]}.{what}"
    else:
        part, out = stem, f"{names[stem]}.{what}"
    if (family.startswith("llama") or family == "mixtral") and part in ("self_attn.q_proj", "self_attn.k_proj"):
        half = HEAD_DIM // 2
        order = [head * HEAD_DIM + second * half + pair for head in range(len(rows) // HEAD_DIM)
                 for pair in range(half) for second in range(2)]
        rows = [rows[row] for row in order]
    if family == "gemma3" and part.endswith("norm"):
        rows = [f32(x + 1.0) for x in rows]
    return out, rows


def llama3_factors(settings):
    scaling = settings["rope_scaling"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    factors = []
    for pair in range(HEAD_DIM // 2):
        frequency = f32(1.0 / f32(settings["rope_theta"] ** f32(2 * pair / HEAD_DIM)))
        length = f32(f32(2 * math.pi) / frequency)
        smooth = f32(f32(f32(original / length) - low) / (high - low))
        between = f32(1 / f32(f32(f32(1 - smooth) / factor) + smooth))
        factors.append(1.0 if length < original / high else
                       factor if length > original / low else between)
    return factors


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def array(kind, values):
    items = b"".join(text(v) if kind == STRING else struct.pack("<i", v) for v in values)
    return struct.pack("<IQ", kind, len(values)) + items


def key(name, kind, value):
    forms = {U32: "<I", F32: "<f", BOOL: "<?"}
    if kind in forms:
        packed = struct.pack(forms[kind], value)
    else:
        packed = text(value) if kind == STRING else array(*value)
    return text(name) + struct.pack("<I", kind) + packed


def keys(family, settings):
    name = {"llama3": "llama", "mixtral": "llama"}.get(family, family)
    sizes = {
        "block_count": LAYERS, "context_length": CONTEXT, "embedding_length": HIDDEN,
        "feed_forward_length": INNER, "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS, "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
    }
    if family in MIXTURES:
        sizes |= {"expert_count": EXPERTS, "expert_used_count": USED}
    if family in MIXTURES[1:]:
        sizes["expert_feed_forward_length"] = EXPERT_INNER
    if family == "qwen2moe":
        sizes["expert_shared_feed_forward_length"] = SHARED_INNER
    if family in ("gemma3", "phi3"):
        sizes["attention.sliding_window"] = settings["sliding_window"]
    if family == "phi3":
        sizes["rope.dimension_count"] = HEAD_DIM // 2
        sizes["rope.scaling.original_context_length"] = 64
    yield key("general.architecture", STRING, name)
    yield key("general.name", STRING, "tiny")
    yield key("general.license", STRING, "mit")
    for size, value in sizes.items():
        yield key(f"{name}.{size}", U32, value)
    yield key(f"{name}.attention.layer_norm_rms_epsilon", F32, settings["rms_norm_eps"])
    yield key(f"{name}.rope.freq_base", F32, settings["rope_theta"])
    if family == "gemma3":
        yield key(f"{name}.rope.scaling.type", STRING, "linear")
        yield key(f"{name}.rope.scaling.factor", F32, 8.0)
    if family == "phi3":
        gain = math.sqrt(1 + math.log(CONTEXT / 64) / math.log(64))
        yield key(f"{name}.rope.scaling.attn_factor", F32, gain)
    yield key("tokenizer.ggml.model", STRING, "gpt2")
    yield key("tokenizer.ggml.pre", STRING, "smollm")
    yield key("tokenizer.ggml.tokens", ARRAY, (STRING, texts()))
    types = [1] * (len(texts()) - len(SPECIAL)) + [3] * len(SPECIAL)
    yield key("tokenizer.ggml.token_type", ARRAY, (I32, types))
    yield key("tokenizer.ggml.merges", ARRAY, (STRING, MERGES))
    yield key("tokenizer.ggml.bos_token_id", U32, len(texts()) - 2)
    yield key("tokenizer.ggml.eos_token_id", U32, len(texts()) - 1)
    yield key("tokenizer.ggml.add_bos_token", BOOL, False)


def stacked(named):
    """The experts of each layer and part, in order of their numbers: name, list of matrices."""
    stacks = {}
    for name, rows in named:
        _, _, layer, _, _, _, part, what = name.split(".")
        stacks.setdefault(f"blk.{layer}.{EXPERT_NAMES[part]}.{what}", []).append(rows)
    return list(stacks.items())


def write_gguf(path, family, settings, named):
    of_experts = [tensor for tensor in named if ".experts." in tensor[0]]
    named = [tensor for tensor in named if ".experts." not in tensor[0]]
    all_tensors = [converted(family, name, rows) for name, rows in named] + stacked(of_experts)
    if family == "llama3":
        all_tensors.append(("rope_freqs.weight", llama3_factors(settings)))
    if family == "phi3":
        for kind in ("long", "short"):
            factors = settings["rope_scaling"][f"{kind}_factor"]
            all_tensors.append((f"rope_factors_{kind}.weight", factors))
    all_keys = list(keys(family, settings))
    header = [b"GGUF", struct.pack("<IQQ", 3, len(all_tensors), len(all_keys)), *all_keys]
    data = b""
    for name, rows in all_tensors:
        sizes = shape(rows)[::-1]
        if name.endswith("ffn_gate_inp_shexp.weight"):
            sizes = sizes[:1]
        header.append(text(name) + struct.pack("<I", len(sizes)))
        header.append(struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", 0, len(data)))
        data += b"".join(struct.pack("<f", x) for x in flat(rows))
        data += bytes(-len(data) % 32)
    header = b"".join(header)
    path.write_bytes(header + bytes(-len(header) % 32) + data)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in FAMILIES:
        sys.exit(f"{__doc__}\nfamilies: {', '.join(FAMILIES)}")
    family, out = sys.argv[1], pathlib.Path(sys.argv[2])
    settings = config(family, len(texts()))
    named = list(tensors(family, Random(), len(texts())))
    write_folder(out / "tiny", settings, named)
    write_gguf(out / "tiny.gguf", family, settings, named)


if __name__ == "__main__":
    main()
