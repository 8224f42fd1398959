//! What an audit found wrong, and who is bound by it.
//!
//! A fault names a stage only where that stage's own signatures convict it. Everything that another
//! party could have arranged is the receipt's, and names nobody. Algebraic faults carry the matrix
//! and the cell, nothing that depends on the verifier's secrets.

use core::fmt;

use lockstep_exact::bytes::DecodeError;
use lockstep_exact::invariant::Broken;
use lockstep_exact::kv::KvRowError;
use lockstep_exact::names::ProductName;
use lockstep_exact::sample::Finish;

use crate::sign::NodeId;
use crate::slice::SliceError;
use crate::sums::SumsError;

/// One position of one layer; the number of layers stands for the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The absolute position of the cell.
    pub position: u32,
    /// The index of the cell's layer in the model.
    pub layer: u32,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {}, layer {}", self.position, self.layer)
    }
}

/// The party that is bound by a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: whoever put the receipt together, or handed something on, could have caused it.
    Receipt,
    /// A stage is bound, by its own signatures.
    Stage {
        /// Its place in the ring; 0 is server 1.
        stage: u32,
        /// The node id of the stage.
        node: NodeId,
    },
    /// Nobody whose answer is audited: this verifier's own program does not keep an invariant.
    Verifier,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The party that is bound by the fault.
    pub blame: Blame,
    /// The cell that the fault is about, if it is about one.
    pub cell: Option<Cell>,
    /// The reason: which check failed.
    pub reason: Reason,
}

impl Fault {
    /// Returns the place of the stage that is convicted, if one is.
    #[must_use]
    pub const fn stage(&self) -> Option<u32> {
        match self.blame {
            Blame::Stage { stage, .. } => Some(stage),
            Blame::Receipt | Blame::Verifier => None,
        }
    }

    /// Returns the node that is convicted, if one is.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self.blame {
            Blame::Stage { node, .. } => Some(node),
            Blame::Receipt | Blame::Verifier => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blame {
            Blame::Receipt => f.write_str("receipt: ")?,
            Blame::Verifier => f.write_str("this verifier: ")?,
            Blame::Stage { stage, node } => write!(f, "stage {stage} ({}): ", node.short())?,
        }
        if let Some(cell) = self.cell {
            write!(f, "{cell}: ")?;
        }
        fmt::Display::fmt(&self.reason, f)
    }
}

impl core::error::Error for Fault {}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Self { blame: Blame::Verifier, cell: None, reason: Reason::Internal(broken) }
    }
}

/// A part of an opening that a slice proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rows at an edge of the stage.
    Edge,
    /// States that go into the layer.
    Input,
    /// The KV rows of the layer.
    Kv,
    /// The states after the layer.
    Output,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edge => "edge",
            Self::Input => "input states",
            Self::Kv => "KV rows",
            Self::Output => "output states",
        })
    }
}

/// The reasons of faults: the checks that can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A stage's marks do not continue its chain, or do not end in the chain it signed.
    Chain,
    /// A stage took over and marked another output than the one before it had, and both opened
    /// cells that are right.
    Disputed {
        /// The position after the frame.
        end: u32,
    },
    /// An input row of layer 0 is not the embedding of its token.
    Embedding,
    /// The digests of the embedding rows do not give the root that was signed.
    EmbeddingRoot,
    /// An opening that does not decode.
    Encoding(DecodeError),
    /// The answer ends, or goes on, against the stop rules.
    Finish {
        /// What the rules say of this answer; `None`: it goes on.
        expected: Option<Finish>,
        /// What was signed.
        got: Finish,
    },
    /// A frame that crosses from prompt to answer, or holds several tokens of the answer.
    Frame {
        /// Its first position.
        position: u32,
    },
    /// This verifier's own program does not keep an invariant, so it can't say whether the answer
    /// is right. Nothing that a stage or a client does causes it.
    Internal(Broken),
    /// The recomputed KV row is not the committed one.
    Kv,
    /// A committed KV row is not canonical.
    KvRow(KvRowError),
    /// A row that differs from the digest in the stage's own mark.
    MarkContradicted,
    /// The lease is not that of the request.
    Lease(&'static str),
    /// Two neighbours signed different digests for what went between them.
    MarksDiffer {
        /// First position of the frame.
        position: u32,
    },
    /// A challenge that the audit seed does not give, or twice the same.
    NotDrawn,
    /// A part of a layer's opening stands before one that it follows.
    Order,
    /// The recomputed state is not the committed one.
    Output,
    /// The head says that it gives no token, but the sampler gives one.
    NoOverflow,
    /// A stage signed for another lease than the client's: it was handed over so, and the stage's
    /// signature clears it.
    OtherLease {
        /// Its place in the ring.
        stage: u32,
    },
    /// A stage signed for another run of the stage before than this one: runs were mixed, and the
    /// stage's signature clears it.
    OtherRun {
        /// Its place in the ring.
        stage: u32,
    },
    /// The last stage's mark has an output where no state leaves, or none where one does.
    OutputMark {
        /// First position of the frame.
        position: u32,
    },
    /// A stage signed for more positions than the receipt has: frames are missing.
    Positions {
        /// Its place in the ring.
        stage: u32,
    },
    /// A claimed sum is not the product.
    Product(ProductName),
    /// A request that no server may accept.
    Request(String),
    /// Two neighbours signed different roots for the states between them.
    RootsDiffer {
        /// The layer that the states go into.
        layer: u32,
    },
    /// The audit seed is not the one that the request is bound to.
    Seed,
    /// A segment that does not fit its own span or the marks.
    Segment(&'static str),
    /// An opening whose parts do not fit the challenge.
    Shape(&'static str),
    /// The mark that a stage shows as the one it got cannot be that.
    Shown(&'static str),
    /// Something is not signed by whom it must be.
    Signature(&'static str),
    /// A slice that is not under the signed root.
    Slice {
        /// Which.
        part: Part,
        /// Why.
        error: SliceError,
    },
    /// An opened state row is not canonical.
    State,
    /// Sums that are out of range or not as many as the cells need.
    Sums {
        /// Which product.
        product: ProductName,
        /// What is wrong.
        error: SumsError,
    },
    /// Segments, frames or marks are missing, doubled or out of order.
    Tiling(&'static str),
    /// The sampler gives another token.
    Token {
        /// Index in the answer.
        index: u32,
    },
    /// A mark of server 1 names other tokens than the answer it signed.
    Tokens {
        /// First position of the frame.
        position: u32,
    },
    /// A stage signed two different marks for one frame.
    TwoMarks {
        /// First position of the frame.
        position: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal(broken) => broken.fmt(f),
            Self::Chain => f.write_str("its marks do not form the chain that it signed"),
            Self::Disputed { end } => {
                write!(f, "two stages of one place differ about the frame before position {end}")
            }
            Self::Embedding => f.write_str("the input is not the token's embedding"),
            Self::EmbeddingRoot => f.write_str("its input is not the embedding of the tokens"),
            Self::Encoding(error) => write!(f, "opening: {error}"),
            Self::Finish { expected: None, got } => {
                write!(f, "ended with {got:?} where the answer goes on")
            }
            Self::Finish { expected: Some(expected), got } => {
                write!(f, "ended with {got:?}, expected {expected:?}")
            }
            Self::Frame { position } => {
                write!(f, "the frame at position {position} does not follow the tokens")
            }
            Self::Kv => f.write_str("the KV row is not what the layer computes"),
            Self::KvRow(error) => write!(f, "{error}"),
            Self::Lease(what) => write!(f, "the lease has another {what} than the request"),
            Self::MarkContradicted => f.write_str("a row differs from its own signed mark"),
            Self::MarksDiffer { position } => {
                write!(f, "different marks for the frame at position {position}")
            }
            Self::NotDrawn => f.write_str("a challenge that the audit seed does not give"),
            Self::Order => f.write_str("the parts of a layer's opening are out of order"),
            Self::Output => f.write_str("the state is not what the layer computes"),
            Self::NoOverflow => {
                f.write_str("the head gives a token where it said that it gives none")
            }
            Self::OtherLease { stage } => {
                let cleared = "its own signature clears it";
                write!(f, "stage {stage} was given another lease than the client's; {cleared}")
            }
            Self::OtherRun { stage } => {
                let cleared = "its own signature clears it";
                write!(f, "stage {stage} signed for another run of the stage before; {cleared}")
            }
            Self::OutputMark { position } => {
                write!(f, "the mark of the frame at position {position} has a wrong output")
            }
            Self::Positions { stage } => {
                write!(f, "frames are missing: stage {stage} signed for more positions")
            }
            Self::Product(name) => write!(f, "the sums of {name} are not the product"),
            Self::Request(why) => write!(f, "the request: {why}"),
            Self::RootsDiffer { layer } => {
                write!(f, "different roots for the states into layer {layer}")
            }
            Self::Seed => f.write_str("the audit seed is not the one of the request"),
            Self::Segment(what) => write!(f, "its segment has a wrong {what}"),
            Self::Shape(what) => write!(f, "opening: {what} do not fit the challenge"),
            Self::Shown(what) => write!(f, "the mark that it shows as the one it got {what}"),
            Self::Signature(what) => write!(f, "{what}: wrong signature"),
            Self::Slice { part, error } => write!(f, "opened {part}: {error}"),
            Self::State => f.write_str("an opened state is not canonical"),
            Self::Sums { product, error } => write!(f, "the sums of {product}: {error}"),
            Self::Tiling(what) => write!(f, "{what} missing, doubled or out of order"),
            Self::Token { index } => write!(f, "the sampler gives another token {index}"),
            Self::Tokens { position } => {
                write!(f, "other tokens marked at position {position} than answered")
            }
            Self::TwoMarks { position } => {
                write!(f, "two different marks for the frame at position {position}")
            }
        }
    }
}
