//! The tensors of a model, found by name and checked for their shapes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use lockstep_exact::feed_forward::{Experts, FeedForward, Gated, Shared};
use lockstep_exact::norm::{HeadNorms, Norm, PostNorms};
use lockstep_exact::tree::LayerTree;

use super::experts::Mixture;
use super::{Biases, ExpertSizes, FamilyError, Model};
use crate::gguf::{Gguf, GgufError, Matrix};

/// The output matrix; a file without it uses the embedding.
pub(crate) const OUTPUT: &str = "output.weight";

/// Some neighbouring rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) matrix: Matrix<'a>,
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Size of a head whose rows are interleaved for rotation: 0, d/2, 1, d/2 + 1, ...
    pub(crate) interleaved: Option<usize>,
}

impl<'a> Rows<'a> {
    pub(crate) fn all(matrix: Matrix<'a>) -> Self {
        Self { matrix, first: 0, count: matrix.rows(), interleaved: None }
    }

    fn part(matrix: Matrix<'a>, first: usize, count: usize) -> Self {
        Self { matrix, first, count, interleaved: None }
    }

    /// Returns the rows of heads as the family stores them; the package pairs row `i` of a head
    /// with `i + d/2`.
    fn of_heads(self, model: &Model) -> Self {
        let interleaved = model.family.interleaved.then_some(model.head_dim as usize);
        Self { interleaved, ..self }
    }

    /// Returns the source row that becomes row `row`.
    pub(crate) fn source_row(&self, row: usize) -> usize {
        self.first + unwoven(row, self.interleaved)
    }

    /// Reads row `row`, in the package's order.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) -> Result<(), GgufError> {
        self.matrix.read_row(self.source_row(row), out)
    }
}

/// Returns the row of a source, which may be interleaved, that belongs at row `row` of the package.
fn unwoven(row: usize, interleaved: Option<usize>) -> usize {
    let Some(head_dim) = interleaved else { return row };
    let (head, within) = (row / head_dim, row % head_dim);
    let pairs = head_dim / 2;
    head * head_dim + within % pairs * 2 + within / pairs
}

/// The tensors of one product of a layer: rows of the file's matrices, one below the other, and the
/// bias. Queries, keys and values are one product, and so are gate and up.
#[derive(Debug, Clone)]
pub(crate) struct ProductTensors<'a> {
    pub(crate) rows: Vec<Rows<'a>>,
    /// The bias, with one number for each row of all matrices.
    pub(crate) bias: Option<Vec<f32>>,
}

/// The tensors of one layer, in the package's order of rows.
pub(crate) type LayerTensors<'a> = LayerTree<ProductTensors<'a>, Vec<f32>>;

impl<'a> ProductTensors<'a> {
    /// Makes a product without a bias.
    pub(crate) const fn of(rows: Vec<Rows<'a>>) -> Self {
        Self { rows, bias: None }
    }

    /// Returns the rows and columns of the product's matrix.
    pub(crate) fn size(&self) -> [usize; 2] {
        let columns = self.rows.first().map_or(0, |rows| rows.matrix.cols());
        [self.rows.iter().map(|rows| rows.count).sum(), columns]
    }

    /// Returns the rows of all matrices, in order: the matrix that a row is in and its index there.
    pub(crate) fn each_row(&self) -> impl Iterator<Item = (&Rows<'a>, usize)> {
        self.rows.iter().flat_map(|rows| (0..rows.count).map(move |row| (rows, row)))
    }
}

/// The tensors of a model that belong to no layer.
#[derive(Debug, Clone)]
pub(crate) struct HeadTensors<'a> {
    pub(crate) embedding: Rows<'a>,
    pub(crate) norm: Norm,
    /// Absent if the embedding serves as the output matrix too.
    pub(crate) output: Option<Rows<'a>>,
}

/// A file's tensors; remembers which were asked for.
#[derive(Debug)]
pub(crate) struct Tensors<'g, 'a> {
    pub(crate) gguf: &'g Gguf<'a>,
    taken: RefCell<BTreeSet<String>>,
}

impl<'g, 'a> Tensors<'g, 'a> {
    pub(crate) fn new(gguf: &'g Gguf<'a>) -> Self {
        Self { gguf, taken: RefCell::default() }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix<'a>, FamilyError> {
        self.taken.borrow_mut().insert(name.to_owned());
        Ok(self.gguf.matrix(name, rows, cols)?)
    }

    fn stack(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<'a>, FamilyError> {
        self.taken.borrow_mut().insert(name.to_owned());
        Ok(self.gguf.stack(name, count, rows, cols)?)
    }

    /// Returns a vector, if the file has it.
    pub(super) fn optional_vector(
        &self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, FamilyError> {
        self.taken.borrow_mut().insert(name.to_owned());
        match self.gguf.tensor(name) {
            Some(_) => Ok(Some(self.gguf.vector(name, len)?)),
            None => Ok(None),
        }
    }

    /// Gains or biases: magnitudes below 2^40, as the exact arithmetic takes them.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, FamilyError> {
        self.taken.borrow_mut().insert(name.to_owned());
        let values = self.gguf.vector(name, len)?;
        let limit = f32::from_bits((127 + 40) << 23);
        match values.iter().position(|value| value.abs() >= limit) {
            None => Ok(values),
            Some(element) => Err(FamilyError::Gain { tensor: name.to_owned(), element }),
        }
    }

    /// Refuses a file with a tensor that no part of the model has asked for.
    pub(crate) fn check_all_taken(&self, model: &Model) -> Result<(), FamilyError> {
        let taken = self.taken.borrow();
        match self.gguf.tensors().iter().find(|tensor| !taken.contains(tensor.name())) {
            None => Ok(()),
            Some(tensor) => Err(FamilyError::UnknownTensor {
                name: tensor.name().to_owned(),
                family: model.family.name,
            }),
        }
    }

    /// Finds the tensors outside the layers, each of the right shape.
    pub(crate) fn head(&self, model: &Model) -> Result<HeadTensors<'a>, FamilyError> {
        let (vocabulary, hidden) = (model.vocabulary as usize, model.hidden as usize);
        let output = match self.gguf.tensor(OUTPUT) {
            Some(_) => Some(Rows::all(self.matrix(OUTPUT, vocabulary, hidden)?)),
            None => None,
        };
        let embedding = Rows::all(self.matrix("token_embd.weight", vocabulary, hidden)?);
        Ok(HeadTensors { embedding, norm: self.norm(model, "output_norm", hidden)?, output })
    }

    /// Finds the tensors of layer `layer`, each of the right shape.
    pub(crate) fn layer(&self, model: &Model, layer: u32) -> Result<LayerTensors<'a>, FamilyError> {
        let part = |part: &str| format!("blk.{layer}.{part}");
        let name = |word: &str| format!("{}.weight", part(word));
        let hidden = model.hidden as usize;
        let (queries, kv) = (model.query_width(), model.kv_width());
        let [query, key, value] = if model.family.fused {
            let fused = self.matrix(&name("attn_qkv"), queries + 2 * kv, hidden)?;
            [(0, queries), (queries, kv), (queries + kv, kv)]
                .map(|(first, count)| Rows::part(fused, first, count))
        } else {
            [
                Rows::all(self.matrix(&name("attn_q"), queries, hidden)?),
                Rows::all(self.matrix(&name("attn_k"), kv, hidden)?),
                Rows::all(self.matrix(&name("attn_v"), kv, hidden)?),
            ]
        };
        let attention_norm = self.norm(model, &part("attn_norm"), hidden)?;
        let qkv = ProductTensors {
            rows: vec![query.of_heads(model), key.of_heads(model), value],
            bias: self.qkv_bias(model, layer)?,
        };
        let head_norms = self.head_norms(model, layer)?;
        let output = ProductTensors {
            rows: vec![Rows::all(self.matrix(&name("attn_output"), hidden, queries)?)],
            bias: self.output_bias(model, layer)?,
        };
        Ok(LayerTree {
            attention_norm,
            qkv,
            output,
            post_norms: self.post_norms(model, layer)?,
            head_norms,
            ffn_norm: self.norm(model, &part("ffn_norm"), hidden)?,
            feed_forward: self.feed_forward(model, layer)?,
        })
    }

    fn feed_forward(
        &self,
        model: &Model,
        layer: u32,
    ) -> Result<FeedForward<ProductTensors<'a>>, FamilyError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (hidden, inner) = (model.hidden as usize, model.inner as usize);
        if let Some(sizes) = &model.experts {
            // Some Qwens have layers without experts; those have no router.
            let is_dense = model.family.experts != Mixture::Allowed
                && self.gguf.tensor(&name("ffn_gate_inp")).is_none();
            if !is_dense {
                return self.experts(hidden, sizes, &name);
            }
        }
        if !model.family.fused {
            let part = |part: &str| name(&format!("ffn_{part}"));
            return Ok(FeedForward::Dense(self.gated(hidden, inner, &part)?));
        }
        let fused = self.matrix(&name("ffn_up"), 2 * inner, hidden)?;
        let down = Rows::all(self.matrix(&name("ffn_down"), hidden, inner)?);
        let gate_up = ProductTensors::of(vec![Rows::all(fused)]);
        Ok(FeedForward::Dense(Gated { gate_up, down: ProductTensors::of(vec![down]) }))
    }

    /// Returns gate, up and down as matrices of their own; `name` makes the tensors' names of these
    /// words.
    fn gated(
        &self,
        hidden: usize,
        inner: usize,
        name: &impl Fn(&str) -> String,
    ) -> Result<Gated<ProductTensors<'a>>, FamilyError> {
        let of = |part, rows, columns| self.matrix(&name(part), rows, columns).map(Rows::all);
        let gate_up =
            ProductTensors::of(vec![of("gate", inner, hidden)?, of("up", inner, hidden)?]);
        Ok(Gated { gate_up, down: ProductTensors::of(vec![of("down", hidden, inner)?]) })
    }

    fn experts(
        &self,
        hidden: usize,
        sizes: &ExpertSizes,
        name: &impl Fn(&str) -> String,
    ) -> Result<FeedForward<ProductTensors<'a>>, FamilyError> {
        let (count, inner) = (sizes.count as usize, sizes.inner as usize);
        let one = |name: String, rows| -> Result<ProductTensors<'a>, FamilyError> {
            Ok(ProductTensors::of(vec![Rows::all(self.matrix(&name, rows, hidden)?)]))
        };
        let router = one(name("ffn_gate_inp"), count)?;
        // All experts in one tensor, or, in older files, each in tensors of its own.
        let experts = if self.gguf.tensor(&name("ffn_gate_exps")).is_some() {
            let stack = |part: &str, rows, columns| {
                self.stack(&name(&format!("ffn_{part}_exps")), count, rows, columns)
            };
            let gate = stack("gate", inner, hidden)?;
            let up = stack("up", inner, hidden)?;
            let down = stack("down", hidden, inner)?;
            let of = |matrix, rows: usize, at: usize| Rows::part(matrix, at * rows, rows);
            let expert = |at| Gated {
                gate_up: ProductTensors::of(vec![of(gate, inner, at), of(up, inner, at)]),
                down: ProductTensors::of(vec![of(down, hidden, at)]),
            };
            (0..count).map(expert).collect()
        } else {
            let part = |expert, part: &str| name(&format!("ffn_{part}.{expert}"));
            let expert = |at| self.gated(hidden, inner, &|word: &str| part(at, word));
            (0..count).map(expert).collect::<Result<Vec<_>, _>>()?
        };
        let shared = match sizes.shared {
            None => None,
            Some(inner) => Some(Shared {
                gate: one(name("ffn_gate_inp_shexp"), 1)?,
                gated: self.gated(hidden, inner as usize, &|part: &str| {
                    name(&format!("ffn_{part}_shexp"))
                })?,
            }),
        };
        Ok(FeedForward::Experts(Experts { rule: sizes.rule, router, experts, shared }))
    }

    /// Biases of queries, keys and values: all three or none.
    fn qkv_bias(&self, model: &Model, layer: u32) -> Result<Option<Vec<f32>>, FamilyError> {
        let name = |part: &str| format!("blk.{layer}.{part}.bias");
        let parts = ["attn_q", "attn_k", "attn_v"].map(name);
        let present = parts.iter().any(|name| self.gguf.tensor(name).is_some());
        match model.family.biases {
            Biases::None => return Ok(None),
            Biases::Allowed if !present => return Ok(None),
            Biases::Allowed | Biases::Required => {}
        }
        let [query, key, value] = parts;
        let interleaved = model.family.interleaved.then_some(model.head_dim as usize);
        let mut bias = Vec::new();
        for (name, len, interleaved) in [
            (query, model.query_width(), interleaved),
            (key, model.kv_width(), interleaved),
            (value, model.kv_width(), None),
        ] {
            let values = self.vector(&name, len)?;
            bias.extend((0..len).filter_map(|row| values.get(unwoven(row, interleaved))));
        }
        Ok(Some(bias))
    }

    fn output_bias(&self, model: &Model, layer: u32) -> Result<Option<Vec<f32>>, FamilyError> {
        let name = format!("blk.{layer}.attn_output.bias");
        let allowed = model.family.biases == Biases::Allowed && self.gguf.tensor(&name).is_some();
        if allowed { self.vector(&name, model.hidden as usize).map(Some) } else { Ok(None) }
    }

    fn head_norms(&self, model: &Model, layer: u32) -> Result<Option<HeadNorms>, FamilyError> {
        if !model.family.head_norms {
            return Ok(None);
        }
        let of = |part| self.norm(model, &format!("blk.{layer}.{part}"), model.head_dim as usize);
        Ok(Some(HeadNorms { query: of("attn_q_norm")?, key: of("attn_k_norm")? }))
    }

    fn post_norms(&self, model: &Model, layer: u32) -> Result<Option<PostNorms>, FamilyError> {
        if !model.family.post_norms {
            return Ok(None);
        }
        let of = |part| self.norm(model, &format!("blk.{layer}.{part}"), model.hidden as usize);
        Ok(Some(PostNorms { attention: of("post_attention_norm")?, ffn: of("post_ffw_norm")? }))
    }

    /// Reads a normalisation, whose gains are the tensor `part` with the ending of weights.
    fn norm(&self, model: &Model, part: &str, len: usize) -> Result<Norm, FamilyError> {
        Ok(Norm::new(model.eps, self.vector(&format!("{part}.weight"), len)?))
    }
}
