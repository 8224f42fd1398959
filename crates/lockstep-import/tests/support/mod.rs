//! A writer of GGUF files, well formed or not, and a tiny model to write.

#![allow(dead_code, reason = "each test binary uses another part")]

pub(crate) mod drive;
pub(crate) mod family;
pub(crate) mod folder;

use lockstep_testing::numbers::Numbers;

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Any type number with any bytes.
    Raw(u32, Vec<u8>),
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U32(n) => put(out, 4, &n.to_le_bytes()),
            Self::I32(n) => put(out, 5, &n.to_le_bytes()),
            Self::F32(x) => put(out, 6, &x.to_le_bytes()),
            Self::Bool(b) => put(out, 7, &[u8::from(*b)]),
            Self::U64(n) => put(out, 10, &n.to_le_bytes()),
            Self::Str(text) => {
                put(out, 8, &[]);
                put_string(out, text);
            }
            Self::Strs(texts) => {
                put(out, 9, &8_u32.to_le_bytes());
                out.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| put_string(out, text));
            }
            Self::I32s(numbers) => {
                put(out, 9, &5_u32.to_le_bytes());
                out.extend((numbers.len() as u64).to_le_bytes());
                out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
            }
            Self::F32s(numbers) => {
                put(out, 9, &6_u32.to_le_bytes());
                out.extend((numbers.len() as u64).to_le_bytes());
                out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            }
            Self::Raw(ty, bytes) => put(out, *ty, bytes),
        }
    }
}

fn put(out: &mut Vec<u8>, ty: u32, bytes: &[u8]) {
    out.extend(ty.to_le_bytes());
    out.extend(bytes);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor as the directory will state it, and the bytes that will stand in the file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: u32,
    pub(crate) bytes: Vec<u8>,
    /// Stated instead of the true offset.
    pub(crate) offset: Option<u64>,
}

/// A GGUF file to be written.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Stated instead of the true counts of tensors and pairs.
    pub(crate) counts: Option<(u64, u64)>,
    pub(crate) alignment: usize,
    pub(crate) pairs: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl File {
    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        let (tensors, pairs) =
            self.counts.unwrap_or((self.tensors.len() as u64, self.pairs.len() as u64));
        out.extend(tensors.to_le_bytes());
        out.extend(pairs.to_le_bytes());
        for (key, value) in &self.pairs {
            put_string(&mut out, key);
            value.write(&mut out);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    /// Sets a value, in place of the one the key has.
    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        self.remove(key);
        self.pairs.push((key.to_owned(), value));
    }

    /// Removes a value.
    pub(crate) fn remove(&mut self, key: &str) {
        self.pairs.retain(|(k, _)| k != key);
    }

    /// The value of a key.
    pub(crate) fn meta(&mut self, key: &str) -> &mut Meta {
        &mut self.pairs.iter_mut().find(|(k, _)| k == key).unwrap().1
    }

    /// The strings of a key.
    pub(crate) fn strings(&mut self, key: &str) -> &mut Vec<String> {
        let Meta::Strs(strings) = self.meta(key) else { panic!("{key} holds no strings") };
        strings
    }

    /// The tensor of a name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Replaces the numbers of an F32 tensor.
    pub(crate) fn numbers(&mut self, name: &str, numbers: impl IntoIterator<Item = f32>) {
        let tensor = self.tensor(name);
        let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!((tensor.ty, tensor.bytes.len()), (0, bytes.len()));
        tensor.bytes = bytes;
    }
}

/// Sizes of the tiny model.
pub(crate) const HIDDEN: usize = 32;
pub(crate) const HEAD_DIM: usize = 8;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const INNER: usize = 64;
pub(crate) const LAYERS: usize = 2;

/// The letter that spells a byte.
pub(crate) fn letter(byte: u8) -> char {
    let own = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if own(byte) {
        return char::from(byte);
    }
    let moved = (0..byte).filter(|b| !own(*b)).count() as u32;
    char::from_u32(256 + moved).unwrap()
}

/// Ordinary tokens of the tiny model: every byte, then the results of its merges.
pub(crate) fn tokens() -> Vec<String> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.extend(["th", "the", "Ġthe", "Ġt", "in"].map(str::to_owned));
    tokens
}

/// A valid file of a tiny model with unquantised weights.
pub(crate) fn tiny() -> File {
    let mut texts = tokens();
    texts.extend(["<|im_start|>", "<|im_end|>", "[unused]", "user-word"].map(str::to_owned));
    let mut types = vec![1; texts.len() - 4];
    types.extend([3, 3, 5, 4]);
    let text = |text: &str| Meta::Str(text.to_owned());
    let texts_of = |texts: &[&str]| Meta::Strs(texts.iter().map(|t| (*t).to_owned()).collect());
    let pairs = [
        ("general.architecture", text("llama")),
        ("general.name", text("tiny")),
        ("general.license", text("MIT")),
        ("llama.block_count", Meta::U32(LAYERS as u32)),
        ("llama.context_length", Meta::U32(128)),
        ("llama.embedding_length", Meta::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Meta::U32(INNER as u32)),
        ("llama.attention.head_count", Meta::U32(HEADS as u32)),
        ("llama.attention.head_count_kv", Meta::U32(KV_HEADS as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
        ("tokenizer.ggml.merges", texts_of(&["t h", "th e", "Ġ the", "Ġ t", "i n"])),
        ("tokenizer.ggml.bos_token_id", Meta::U32(261)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(262)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ];
    let mut file = File {
        magic: *b"GGUF",
        version: 3,
        counts: None,
        alignment: 32,
        pairs: pairs.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        tensors: tensors(texts.len()),
    };
    file.set("tokenizer.ggml.tokens", Meta::Strs(texts));
    file
}

/// The tiny model with a SentencePiece vocabulary: control tokens, all bytes, `<b>`, some letters.
pub(crate) fn tiny_pieces() -> File {
    let mut file = tiny();
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    texts.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(["<b>", "\u{2581}", "t", "h", "e", "\u{2581}t"].map(str::to_owned));
    let mut types = [vec![2, 3, 3], vec![6; 256], vec![4], vec![1; 5]].concat();
    types.resize(texts.len(), 1);
    let scores = (0..texts.len()).map(|id| -(id as f32)).collect();
    file.set("tokenizer.ggml.model", Meta::Str("llama".to_owned()));
    file.remove("tokenizer.ggml.pre");
    file.remove("tokenizer.ggml.merges");
    file.set("tokenizer.ggml.tokens", Meta::Strs(texts));
    file.set("tokenizer.ggml.token_type", Meta::I32s(types));
    file.set("tokenizer.ggml.scores", Meta::F32s(scores));
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    file
}

/// A model in three files, the first of which holds no tensor.
pub(crate) fn split(whole: &File) -> [File; 3] {
    let total = whole.tensors.len();
    let part = |number: u32, tensors: std::ops::Range<usize>| {
        let mut file = whole.clone();
        file.tensors = whole.tensors[tensors].to_vec();
        if number > 0 {
            file.pairs.clear();
        }
        file.set("split.no", Meta::U32(number));
        file.set("split.count", Meta::U32(3));
        file.set("split.tensors.count", Meta::I32(total as i32));
        file
    };
    [part(0, 0..0), part(1, 0..7), part(2, 7..total)]
}

fn tensors(vocabulary: usize) -> Vec<Tensor> {
    let mut numbers = Numbers::new(7);
    let mut all = Vec::new();
    let mut add = |name: String, dims: &[usize]| {
        let len = dims.iter().product();
        let numbers: Vec<f32> = (0..len).map(|_| numbers.signed_unit()).collect();
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let dims = dims.iter().map(|dim| *dim as u64).collect();
        all.push(Tensor { name, dims, ty: 0, bytes, offset: None });
    };
    let (queries, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    add("token_embd.weight".to_owned(), &[HIDDEN, vocabulary]);
    add("output_norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        add(name("attn_norm"), &[HIDDEN]);
        add(name("attn_q"), &[HIDDEN, queries]);
        add(name("attn_k"), &[HIDDEN, kv]);
        add(name("attn_v"), &[HIDDEN, kv]);
        add(name("attn_output"), &[queries, HIDDEN]);
        add(name("ffn_norm"), &[HIDDEN]);
        add(name("ffn_gate"), &[HIDDEN, INNER]);
        add(name("ffn_up"), &[HIDDEN, INNER]);
        add(name("ffn_down"), &[INNER, HIDDEN]);
    }
    all
}
