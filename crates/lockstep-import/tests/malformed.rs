//! Files that must be refused, each with the words a person will read.

mod support;

use std::error::Error;

use lockstep_import::package::{ImportError, MemorySink, ModelFile};
use support::{File, HIDDEN, Meta, Tensor, letter, tiny};

/// What an error says, which its causes do not say again: a program shows them all.
#[track_caller]
fn said_once(error: &dyn Error) -> String {
    let said = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        assert!(!said.contains(&next.to_string()), "said twice: {said}: {next}");
        cause = next.source();
    }
    said
}

/// What becomes of a file: the words of its refusal, wherever it comes.
fn refusal(file: &[u8]) -> String {
    let model = match ModelFile::open(file) {
        Err(error) => return said_once(&error),
        Ok(model) => model,
    };
    match model.import(&mut MemorySink::default(), |_| ()) {
        Err(ImportError::Model(error)) => said_once(&error),
        Err(ImportError::Sink(never)) => match never {},
        Ok(_) => "accepted".to_owned(),
    }
}

/// Breaks the tiny model, and requires exactly these words.
#[track_caller]
fn refused(breakage: impl FnOnce(&mut File), expected: &str) {
    let mut file = tiny();
    breakage(&mut file);
    assert_eq!(refusal(&file.bytes()), expected);
}

#[track_caller]
fn set(key: &str, value: Meta, expected: &str) {
    refused(|file| file.set(key, value), expected);
}

fn text(text: &str) -> Meta {
    Meta::Str(text.to_owned())
}

#[test]
fn the_unbroken_file_is_accepted() {
    assert_eq!(refusal(&tiny().bytes()), "accepted");
}

#[test]
fn headers() {
    let gguf = "not a GGUF file: it begins with [47, 47, 4d, 4c], not with \"GGUF\"";
    refused(|f| f.magic = *b"GGML", gguf);
    refused(|f| f.version = 2, "accepted");
    for (version, words) in [
        (1, "version 1 was written for a few days in August 2023; take a newer file"),
        (4, "a newer program may read it"),
    ] {
        let words = format!("GGUF version {version}; versions 2 and 3 can be imported: {words}");
        refused(|f| f.version = version, &words);
    }
    for version in [2_u32, 3] {
        refused(
            |f| f.version = version.swap_bytes(),
            "this is a big-endian GGUF file; export it again on (or for) a little-endian machine",
        );
    }
    refused(
        |f| f.counts = Some((u64::MAX, 1)),
        "tensors: 18446744073709551615, more than the limit of 65536",
    );
    refused(
        |f| f.counts = Some((1, 1 << 40)),
        "metadata pairs: 1099511627776, more than the limit of 4096",
    );
    assert_eq!(
        refusal(b"GGUF"),
        "the file ends inside the version: 4 bytes needed at byte 4, 0 left; it is truncated or \
         damaged: download it again"
    );
    assert!(refusal(b"").contains("it is empty"));
    let pointer = refusal(b"version https://git-lfs.github.com/spec/v1\n");
    assert!(pointer.starts_with("not a GGUF file: it is a Git LFS pointer"), "{pointer}");
}

#[test]
fn every_truncation_is_refused() {
    let whole = tiny().bytes();
    for len in (0..whole.len()).step_by(37).chain([whole.len() - 1]) {
        assert_ne!(refusal(&whole[..len]), "accepted", "cut to {len} bytes");
    }
    assert!(refusal(&whole[..whole.len() - 1]).contains("the file is truncated or damaged"));
}

#[test]
fn metadata() {
    refused(
        |f| f.pairs.push(("general.name".to_owned(), text("again"))),
        "metadata key \"general.name\" occurs twice",
    );
    set("x", Meta::Raw(13, vec![]), "metadata \"x\" has value type 13, which GGUF does not define");
    set("x", Meta::Raw(7, vec![2]), "metadata \"x\" holds 2 where a boolean (0 or 1) was expected");
    let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
    set(
        "x",
        Meta::Raw(9, nested),
        "metadata \"x\" is an array of arrays, which no supported key uses",
    );
    let giant = [&4_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    set(
        "x",
        Meta::Raw(9, giant),
        "array items: 18446744073709551615, more than the limit of 4194304",
    );
    let long = (1_u64 << 30).to_le_bytes().to_vec();
    set(
        "x",
        Meta::Raw(8, long),
        "metadata \"x\" has 1073741824 bytes, more than the limit of 134217728",
    );
    // Whole files that some exporters add, and nothing here reads.
    set("tokenizer.huggingface.json", text(&"x".repeat(2 << 20)), "accepted");
    let not_text = [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    let words = refusal(&{
        let mut file = tiny();
        file.set("x", Meta::Raw(8, not_text));
        file.bytes()
    });
    assert!(words.starts_with("the string value at byte ") && words.ends_with("is not UTF-8"));
    refused(
        |f| f.pairs.push(("\u{1b}[31m\n".to_owned(), Meta::Raw(99, vec![]))),
        "metadata \"\\u{1b}[31m\\n\" has value type 99, which GGUF does not define",
    );
    set(
        "general.alignment",
        Meta::U32(24),
        "general.alignment is 24; it must be a power of two from 8 to 1048576",
    );
}

#[test]
fn tensor_directories() {
    refused(
        |f| f.tensors[3].name = f.tensors[4].name.clone(),
        "tensor \"blk.0.attn_k.weight\" occurs twice",
    );
    refused(
        |f| f.tensor("output_norm.weight").dims = vec![],
        "tensor \"output_norm.weight\" has 0 dimensions; 1 to 4 were expected",
    );
    refused(
        |f| f.tensor("output_norm.weight").dims = vec![1; 5],
        "tensor \"output_norm.weight\" has 5 dimensions; 1 to 4 were expected",
    );
    for dims in [vec![32, 0], vec![1 << 63, 2]] {
        let padded = [dims[0], dims[1], 1, 1];
        refused(
            |f| f.tensor("output_norm.weight").dims = dims,
            &format!(
                "tensor \"output_norm.weight\" of type F32 has dimensions {padded:?}: each must be \
                 at least 1, the first a multiple of 1, and the whole must fit 64 bits"
            ),
        );
    }
    refused(
        |f| {
            f.tensor("output_norm.weight").ty = 8;
            f.tensor("output_norm.weight").dims = vec![33];
        },
        "tensor \"output_norm.weight\" of type Q8_0 has dimensions [33, 1, 1, 1]: each must be at \
         least 1, the first a multiple of 32, and the whole must fit 64 bits",
    );
    refused(
        |f| f.tensor("output_norm.weight").offset = Some(33),
        "tensor \"output_norm.weight\" starts at offset 33, not a multiple of 32",
    );
    let data: usize = tiny().tensors.iter().map(|t| t.bytes.len()).sum();
    refused(
        |f| f.tensor("output_norm.weight").offset = Some(1 << 40),
        &format!(
            "tensor \"output_norm.weight\" needs 128 bytes at offset 1099511627776 of the data \
             section, which has {data}; the file is truncated or damaged: download it again"
        ),
    );
    refused(
        |f| f.tensor("output_norm.weight").offset = Some(u64::MAX - 31),
        &format!(
            "tensor \"output_norm.weight\" needs 128 bytes at offset 18446744073709551584 of the \
             data section, which has {data}; the file is truncated or damaged: download it again"
        ),
    );
    refused(
        |f| f.tensor("output_norm.weight").offset = Some(64),
        "tensors \"token_embd.weight\" and \"output_norm.weight\" overlap",
    );
    refused(
        |f| f.tensor("output_norm.weight").name = "n".repeat(129),
        "tensor name: 129, more than the limit of 128",
    );
}

#[test]
fn tensor_types() {
    for (ty, name, reason) in [
        (9, "Q8_1", "a type for intermediate results, not for weights"),
        (26, "I32", "integers, not weights"),
        (33, "Q4_0 in another order", "a type for one kind of processor, which llama.cpp dropped"),
        (40, "NVFP4", "4-bit floats with a scale in another tensor, which are not read here"),
        (4, "Q4_2 or Q4_3", "a type of early 2023, which llama.cpp dropped"),
        (77, "type 77", "a type that is not known here"),
    ] {
        refused(
            |f| f.tensor("blk.1.ffn_up.weight").ty = ty,
            &format!(
                "tensor \"blk.1.ffn_up.weight\" is stored as {name}: {reason}; take a file of the \
                 model in Q8_0 (recommended), F32, F16, BF16, Q2_K to Q6_K, Q4_0 to Q5_1, IQ1 to \
                 IQ4, TQ1_0, TQ2_0 or MXFP4"
            ),
        );
    }
    for (ty, name) in [(10, "Q2_K"), (11, "Q3_K"), (12, "Q4_K"), (14, "Q6_K"), (16, "IQ2_XXS")] {
        refused(
            |f| f.tensor("blk.1.ffn_up.weight").ty = ty,
            &format!(
                "tensor \"blk.1.ffn_up.weight\" of type {name} has dimensions [32, 64, 1, 1]: \
                 each must be at least 1, the first a multiple of 256, and the whole must fit 64 \
                 bits"
            ),
        );
    }
}

#[test]
fn architectures_and_kinds() {
    set(
        "general.architecture",
        text("mamba"),
        "the model's architecture is \"mamba\"; \"llama\", \"qwen2\", \"qwen2moe\", \"qwen3\", \
         \"qwen3moe\", \"gemma3\" and \
         \"phi3\" can be imported",
    );
    refused(
        |f| f.remove("general.architecture"),
        "metadata key \"general.architecture\" is missing",
    );
    for (kind, words) in [
        (
            "adapter",
            "a LoRA adapter (\"adapter\"), not a model; take a file in which it is merged with its \
             model",
        ),
        (
            "mmproj",
            "the part of a model that sees images (\"mmproj\"), not a model; take the model's own \
             file, which is beside it",
        ),
        ("diary", "a \"diary\", not a model; take the model's own file"),
    ] {
        set("general.type", text(kind), &format!("the file holds {words}"));
    }
    refused(
        |f| f.tensors.clear(),
        "the file holds a vocabulary and no weights; take the model's own GGUF file, which is \
         larger",
    );
    set(
        "split.count",
        Meta::U32(3),
        "this is one file of several; the others must be beside it, under their own names",
    );
    set("general.name", text(&"n".repeat(257)), "general.name has 257 bytes; the limit is 256");
}

#[test]
fn hyperparameters() {
    refused(|f| f.remove("llama.block_count"), "metadata key \"llama.block_count\" is missing");
    set("llama.block_count", Meta::U32(0), "llama.block_count is 0; expected 1 to 512");
    set(
        "llama.block_count",
        Meta::U64(1 << 40),
        "llama.block_count is 1099511627776; expected 1 to 512",
    );
    set(
        "llama.block_count",
        text("2"),
        "metadata \"llama.block_count\" is a string; a non-negative integer was expected",
    );
    set(
        "llama.block_count",
        Meta::I32(-1),
        "metadata \"llama.block_count\" is a signed integer; a non-negative integer was expected",
    );
    set(
        "llama.embedding_length",
        Meta::U32(48),
        "llama.embedding_length is 48; expected a multiple of 32",
    );
    set(
        "llama.attention.head_count_kv",
        Meta::U32(3),
        "llama.attention.head_count_kv is 3; expected a divisor of head_count",
    );
    set(
        "llama.attention.head_count_kv",
        Meta::U32(8),
        "llama.attention.head_count_kv is 8; expected 1 to 4",
    );
    refused(
        |f| {
            f.set("llama.attention.head_count", Meta::U32(5));
            f.set("llama.attention.head_count_kv", Meta::U32(5));
        },
        "llama.attention.head_count is 5; expected a divisor of embedding_length",
    );
}

#[test]
fn hyperparameters_at_odds_with_each_other() {
    set(
        "llama.attention.value_length",
        Meta::U32(4),
        "llama.attention.value_length is 4; expected 8, the size of a head",
    );
    set(
        "llama.rope.dimension_count",
        Meta::U32(4),
        "llama.rope.dimension_count is 4; expected 8, the size of a head",
    );
    refused(
        |f| {
            f.set("llama.attention.head_count", Meta::U32(512));
            f.set("llama.attention.key_length", Meta::U32(512));
        },
        "llama.attention.head_count is 512; expected heads whose sizes add up to at most 131072",
    );
    set(
        "llama.vocab_size",
        Meta::U32(300),
        "llama.vocab_size is 300; expected 265, the number of tokens in the tokenizer",
    );
}

#[test]
fn hyperparameters_that_are_fractions() {
    for eps in [0.0, -1.0, 2.0, f32::NAN, f32::INFINITY] {
        set(
            "llama.attention.layer_norm_rms_epsilon",
            Meta::F32(eps),
            &format!(
                "llama.attention.layer_norm_rms_epsilon is {eps}; expected a number in [2^-60, 1]"
            ),
        );
    }
    for base in [0.5, f32::NAN, f32::INFINITY] {
        set(
            "llama.rope.freq_base",
            Meta::F32(base),
            &format!("llama.rope.freq_base is {base}; expected a number in [1, 1e12]"),
        );
    }
}

#[test]
fn what_is_not_understood_is_not_ignored() {
    let unknown = |key: &str, value: &str| {
        format!(
            "{key} is {value}, which changes how the model works in a way that cannot be imported"
        )
    };
    let foreign = |name: &str| {
        format!("tensor {name:?} does not belong to a plain llama model; it cannot be imported")
    };
    set("llama.rope.scaling.type", text("yarn"), &unknown("llama.rope.scaling.type", "\"yarn\""));
    set(
        "llama.attention.scale",
        Meta::F32(0.1),
        &unknown("llama.attention.scale", "0.10000000149011612"),
    );
    set("llama.expert_group_count", Meta::U32(8), &unknown("llama.expert_group_count", "8"));
    set("llama.attention.causal", Meta::Bool(false), &unknown("llama.attention.causal", "false"));
    set(
        "llama.use_parallel_residual",
        Meta::Bool(true),
        &unknown("llama.use_parallel_residual", "true"),
    );
    set("llama.nextn_predict_layers", Meta::U32(1), &unknown("llama.nextn_predict_layers", "1"));
    // What says what llama.cpp has where a file is silent.
    for (key, value) in [
        ("attention.causal", Meta::Bool(true)),
        ("attention.scale", Meta::F32(0.0)),
        ("attn_logit_softcapping", Meta::F32(0.0)),
        ("expert_weights_scale", Meta::F32(1.0)),
        ("nextn_predict_layers", Meta::U32(0)),
        ("pooling_type", Meta::U32(3)),
        ("rope.scaling.finetuned", Meta::Bool(true)),
        ("rope.scaling.original_context_length", Meta::U32(4096)),
        ("use_parallel_residual", Meta::Bool(false)),
    ] {
        set(&format!("llama.{key}"), value, "accepted");
    }
    refused(
        |f| {
            let name = "blk.0.attn_sub_norm.weight".to_owned();
            f.tensors.push(Tensor { name, ..f.tensors[1].clone() });
        },
        &foreign("blk.0.attn_sub_norm.weight"),
    );
    refused(
        |f| {
            let name = "blk.2.ffn_up.weight".to_owned();
            f.tensors.push(Tensor { name, ..f.tensors[1].clone() });
        },
        &foreign("blk.2.ffn_up.weight"),
    );
    set("llama.rope.scaling.type", text("none"), "accepted");
    set("llama.expert_count", Meta::U32(0), "accepted");
}

#[test]
fn sizes_may_be_lists_of_one_size() {
    set("llama.feed_forward_length", Meta::I32s(vec![64, 64]), "accepted");
    set(
        "llama.feed_forward_length",
        Meta::I32s(vec![64, 96]),
        "llama.feed_forward_length is a list of several; expected one size for all layers",
    );
    set(
        "llama.attention.head_count_kv",
        Meta::I32s(vec![]),
        "llama.attention.head_count_kv is a list of several; expected one size for all layers",
    );
}

#[test]
fn missing_and_misshapen_tensors() {
    refused(
        |f| f.tensors.retain(|t| t.name != "blk.1.ffn_up.weight"),
        "tensor \"blk.1.ffn_up.weight\" is missing",
    );
    refused(
        |f| f.tensor("blk.0.attn_k.weight").dims = vec![16, 32],
        "tensor \"blk.0.attn_k.weight\" has dimensions [16, 32, 1, 1]; the model needs 16 rows × \
         32",
    );
    refused(
        |f| f.tensor("output_norm.weight").dims = vec![16, 2],
        "tensor \"output_norm.weight\" has dimensions [16, 2, 1, 1]; the model needs 1 rows × 32",
    );
}

#[test]
fn numbers_that_are_not_finite_or_too_large() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        refused(
            |f| {
                let at = (3 * HIDDEN + 5) * 4;
                f.tensor("blk.1.attn_v.weight").bytes[at..at + 4]
                    .copy_from_slice(&bad.to_le_bytes());
            },
            "tensor \"blk.1.attn_v.weight\" holds a number that is not finite at row 3, column 5",
        );
    }
    refused(
        |f| f.numbers("output_norm.weight", [1e13; HIDDEN]),
        "tensor \"output_norm.weight\": element 0 is 2^40 or more",
    );
    refused(
        |f| f.numbers("blk.1.attn_output.weight", [f32::MAX; HIDDEN * HIDDEN]),
        "tensor \"blk.1.attn_output.weight\": the numbers of row 0 are too large",
    );
}

/// Holes in downloads, and numbers that no training leaves.
#[test]
fn odd_weights_are_refused_unless_they_are_welcome() {
    let odd = |what: &str| {
        format!(
            "tensor \"blk.1.attn_output.weight\": {what}, as no training leaves it; the file is \
             damaged or was converted wrongly: get it again, or import it as it is with \
             --odd-weights"
        )
    };
    let of = |numbers: &dyn Fn(usize) -> f32| {
        let mut file = tiny();
        file.numbers("blk.1.attn_output.weight", (0..HIDDEN * HIDDEN).map(numbers));
        file.bytes()
    };
    let hole = of(&|at| if at < 17 * HIDDEN { 0.0 } else { at as f32 / 1024.0 });
    assert_eq!(refusal(&hole), odd("17 of its 32 rows are zero"));
    assert_eq!(refusal(&of(&|_| 0.25)), odd("all of its elements are 0.25"));
    assert_eq!(refusal(&of(&|at| at as f32 * 4096.0)), odd("an element of it is 4.190208e6"));
    let model = ModelFile::open(&hole).unwrap().with_odd_weights(true);
    model.import(&mut MemorySink::default(), |_| ()).unwrap();
}

#[test]
fn tokenizers() {
    set(
        "tokenizer.ggml.model",
        text("bert"),
        "the tokenizer is of kind \"bert\"; byte-level BPE (\"gpt2\", as in Llama 3 and Qwen \
         models), SentencePiece BPE (\"llama\", as in Gemma and Mistral models) and Unigram \
         (\"t5\") can be imported",
    );
    set(
        "tokenizer.ggml.pre",
        text("somebodys-own"),
        "text is split by the rule \"somebodys-own\" (tokenizer.ggml.pre), which is not known \
         here: the model learned from text that was cut in its own way, and guessing would give \
         it wrong tokens. Import the model's folder with its tokenizer.json, which states its \
         rule itself, or a file with one of the rules that docs/package.md lists",
    );
    set("tokenizer.ggml.token_type", Meta::I32s(vec![1; 9]), "9 token types for 265 tokens");
    let types = |last| Meta::I32s([vec![1; 261], vec![3, 3, 5, last]].concat());
    set(
        "tokenizer.ggml.token_type",
        types(7),
        "token 264 is of type 7, which such a tokenizer does not have",
    );
    set(
        "tokenizer.ggml.token_type",
        types(-1),
        "token 264 is of type -1, which such a tokenizer does not have",
    );
    set(
        "tokenizer.ggml.eos_token_id",
        Meta::U32(265),
        "tokenizer.ggml.eos_token_id is 265, but there are 265 tokens",
    );
    set(
        "tokenizer.ggml.eot_token_id",
        Meta::U32(u32::MAX),
        "tokenizer.ggml.eot_token_id is 4294967295, but there are 265 tokens",
    );
    set(
        "tokenizer.ggml.merges",
        Meta::I32s(vec![1]),
        "tokenizer: metadata \"tokenizer.ggml.merges\" is an array of something else; an array of \
         strings was expected",
    );
    set(
        "tokenizer.chat_template",
        text(&" ".repeat(65_537)),
        "the chat template \"default\" has 65537 bytes; the limit is 65536",
    );
}

#[test]
fn tokens_and_merges() {
    let tokens = "tokenizer.ggml.tokens";
    refused(
        |f| {
            f.strings(tokens)[260] = "\u{2581}".to_owned();
            f.strings("tokenizer.ggml.merges").push("\u{2581} t".to_owned());
        },
        "token 260 holds '▁', which stands for no byte in the byte-level alphabet",
    );
    refused(|f| f.strings(tokens)[250] = String::new(), "tokenizer: token 250 is empty");
    refused(|f| f.strings(tokens)[262] = String::new(), "tokenizer: token 262 is empty");
    refused(
        |f| f.strings(tokens)[262] = "<|im_start|>".to_owned(),
        "tokenizer: token 262 has the same bytes as an earlier token of its kind",
    );
    refused(
        |f| f.strings(tokens)[260] = letter(b'x').to_string(),
        "merge 4 needs the token \"in\", which the vocabulary does not have",
    );
    refused(
        |f| f.strings(tokens)[7] = "x".repeat(1025),
        "token 7 has 1025 bytes; the limit is 1024",
    );
    let merges = "tokenizer.ggml.merges";
    refused(
        |f| f.strings(merges)[1] = "the".to_owned(),
        "merge 1 is not two tokens with a space between them",
    );
    refused(
        |f| f.strings(merges)[1] = "th zz".to_owned(),
        "merge 1 needs the token \"zz\", which the vocabulary does not have",
    );
    refused(
        |f| f.strings(merges)[1] = "t h".to_owned(),
        "tokenizer: merge 1 repeats the pair of an earlier merge",
    );
    refused(
        |f| {
            f.strings(tokens)[262] = "<|im".to_owned();
            f.strings(tokens)[263] = "<|im<|im_start|>".to_owned();
            f.strings(merges)[4] = "<|im <|im_start|>".to_owned();
        },
        "tokenizer: merge 4 names a token that is not ordinary text",
    );
}
