//! The lies: what each is called, how it is told, who can tell it, and what must find it.
//!
//! This table is the claim; the tests tell every lie at every stage that can tell it and hold the
//! finding against its row. `docs/liars.md` shows the same table.

use std::fmt;
use std::str::FromStr;

use lockstep_exact::manifest::Manifest;
use lockstep_proto::client::{ClientError, MarkFault, SegmentFault};
use lockstep_proto::failure::{Failure, Reason as SessionReason, Refusal};
use lockstep_verify::fault::Reason;

/// Which servers can tell a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// Any server of the ring, wherever it stands.
    Any,
    /// Server 1: it embeds, samples and speaks to the client.
    First,
    /// Any that gets states from another.
    Later,
    /// Any that hands states on to another, and what comes round to the client; server 1 must help
    /// all others.
    Passing,
    /// Any that hands the lease on to another.
    Handing,
}

impl Teller {
    /// Returns whether the server at the place `stage` of a ring of `stages` servers can tell such
    /// a lie.
    #[must_use]
    pub const fn includes(self, stage: usize, stages: usize) -> bool {
        match self {
            Self::Any | Self::Passing => true,
            Self::First => stage == 0,
            Self::Later => stage > 0,
            Self::Handing => stage + 1 < stages,
        }
    }
}

impl fmt::Display for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any server",
            Self::First => "server 1",
            Self::Later => "any but server 1",
            Self::Passing => "any server, with server 1",
            Self::Handing => "any but the last server",
        })
    }
}

/// A check that finds a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Audit: an opened input row of layer 0 is not its token's embedding.
    Embedding,
    /// Audit: the input column is not that of the tokens' embeddings.
    EmbeddingRoot,
    /// Audit: a signed opening that does not decode.
    Encoding,
    /// Audit: the KV row computed again is not the committed one.
    Kv,
    /// Audit: a committed row is not the one in the stage's own mark.
    Mark,
    /// Audit: what is said to have overflowed did not.
    NoOverflow,
    /// Audit: the state computed again is not the committed one.
    Output,
    /// Audit: claimed sums are not the product (Freivalds).
    Product,
    /// Audit: opened bytes are not under the signed root.
    Slice,
    /// Audit: sums that no input gives.
    Sums,
    /// Audit: the sampler, run again, gives another token.
    Token,
    /// The next server: the mark is not about the state that came.
    BadMark,
    /// The next server, or the first itself: the state is not canonical.
    BadState,
    /// The client: a segment is for more positions than were told.
    HeldBack,
    /// Audit: what a server shows as the mark that it got cannot be that.
    Shown,
    /// Audit: the neighbour shows another mark than the client has, both signed for one frame.
    TwoMarks,
    /// The client, or server 1: a lease, mark or segment does not belong to this lease and run.
    Unbound,
    /// The client: the stop rules, applied again.
    StopRules,
    /// The client: the token is not the one in the head's mark.
    StreamedToken,
    /// Nothing is wrong, but an opening that is owed is missing: the verdict is "withheld".
    Unanswered,
}

impl Finding {
    /// Returns the finding that a fault of an audit is, or `None` for a fault to which no lie of
    /// the catalogue leads.
    #[must_use]
    pub const fn of_fault(reason: &Reason) -> Option<Self> {
        Some(match reason {
            Reason::Embedding => Self::Embedding,
            Reason::EmbeddingRoot => Self::EmbeddingRoot,
            Reason::Encoding(_) => Self::Encoding,
            Reason::Kv => Self::Kv,
            Reason::MarkContradicted => Self::Mark,
            Reason::NoOverflow => Self::NoOverflow,
            Reason::Output => Self::Output,
            Reason::Product(_) => Self::Product,
            Reason::Slice { .. } => Self::Slice,
            Reason::Sums { .. } => Self::Sums,
            Reason::Token { .. } => Self::Token,
            Reason::Shown(_) => Self::Shown,
            Reason::TwoMarks { .. } => Self::TwoMarks,
            _ => return None,
        })
    }

    /// Returns the finding that the error of a session is, or `None` for an error to which no lie
    /// of the catalogue leads.
    #[must_use]
    pub const fn of_error(error: &ClientError) -> Option<Self> {
        Some(match error {
            ClientError::Failed(Failure { reason, .. }) => match reason {
                SessionReason::BadMark => Self::BadMark,
                SessionReason::Refused(Refusal::LeaseMismatch) => Self::Unbound,
                SessionReason::BadState | SessionReason::Refused(_) => Self::BadState,
                _ => return None,
            },
            ClientError::Stops { .. } => Self::StopRules,
            ClientError::Token { .. } => Self::StreamedToken,
            ClientError::Mark { fault: MarkFault::Signature, .. } => Self::Unbound,
            ClientError::Segment { fault, .. } => match fault {
                SegmentFault::Lease | SegmentFault::Run => Self::Unbound,
                SegmentFault::MorePositions => Self::HeldBack,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Returns whether the finding convicts or names the liar. Others only end the session, because
    /// an honest server could be made to look the same.
    #[must_use]
    pub const fn names(self) -> bool {
        !matches!(self, Self::HeldBack | Self::Unbound)
    }

    /// Returns the statements that the liar has signed and that bind it to the lie; where nobody is
    /// convicted, the reason for that.
    #[must_use]
    pub const fn bound_by(self) -> &'static str {
        match self {
            Self::EmbeddingRoot => "segment, head statement",
            Self::Embedding
            | Self::Encoding
            | Self::Kv
            | Self::Output
            | Self::Product
            | Self::Slice
            | Self::Sums => "segment, opening",
            Self::Mark => "mark, segment, opening",
            Self::NoOverflow | Self::Token => "head statement, head's mark, opening",
            Self::BadMark | Self::BadState => "-: the report is unsigned",
            Self::HeldBack => "-: what is left out can be anybody's doing",
            Self::Shown => "its mark, its opening",
            Self::TwoMarks => "both marks",
            Self::Unbound => "-: its segment clears the stage that was deceived",
            Self::StopRules => "head statement, head's marks",
            Self::StreamedToken => "head's mark; the token came on the client's own link",
            Self::Unanswered => "the deadline in its segment",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedding => "audit: the opened input is not the token's embedding",
            Self::EmbeddingRoot => "audit: the input column is not that of the tokens' embeddings",
            Self::Encoding => "audit: the signed opening does not decode",
            Self::Kv => "audit: the KV row computed again is not the committed one",
            Self::Mark => "audit: a committed row is not the one in its own mark",
            Self::NoOverflow => "audit: what is said to have overflowed did not",
            Self::Output => "audit: the state computed again is not the committed one",
            Self::Product => "audit: the sums are not the product (Freivalds)",
            Self::Slice => "audit: the opened bytes are not under the signed root",
            Self::Sums => {
                "audit: sums that no input gives, or that are not encoded as they must be"
            }
            Self::Token => "audit: the sampler, run again, gives another token",
            Self::BadMark => "the next server: the mark is not about the state that came",
            Self::BadState => "the next server: the state is not canonical",
            Self::HeldBack => "the client: more positions are signed for than were told; no answer",
            Self::Shown => "audit: what it shows as the mark that it got is not what it marked",
            Self::TwoMarks => "audit: the neighbour shows the other mark that it got for the frame",
            Self::Unbound => "the client or server 1: not for this lease and run; no answer",
            Self::StopRules => "the client: the stop rules, applied again",
            Self::StreamedToken => "the client: the token is not the one that was signed",
            Self::Unanswered => "the client: an opening that is owed does not come, so *withheld*",
        })
    }
}

macro_rules! lies {
    ($($lie:ident = $name:literal, $teller:ident, $($finding:ident)|+, $told:literal;)*) => {
        /// A lie of the catalogue, named by what the server does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Lie {
            $(#[doc = $told] $lie,)*
        }

        impl Lie {
            /// All lies of the catalogue, in the order of its rows.
            pub const ALL: &[Self] = &[$(Self::$lie,)*];

            /// Returns the lie's name on the command line and in documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$lie => $name,)* }
            }

            /// Returns a sentence that says what the liar does, without its subject.
            #[must_use]
            pub const fn told(self) -> &'static str {
                match self { $(Self::$lie => $told,)* }
            }

            /// Returns the servers that can tell the lie.
            #[must_use]
            pub const fn teller(self) -> Teller {
                match self { $(Self::$lie => Teller::$teller,)* }
            }

            /// Returns the findings of which one must be what finds the lie. Anything else is a
            /// failure of the proof.
            #[must_use]
            pub const fn findings(self) -> &'static [Finding] {
                match self { $(Self::$lie => &[$(Finding::$finding),+],)* }
            }
        }
    };
}

lies! {
    SkippedLayer = "skipped-layer", Any, Output,
        "gives a layer's input as its output";
    SkippedInPrompt = "skipped-layer-in-prompt", Any, Output,
        "the same, at the positions before the aim only: it is honest in the answer";
    SkippedInAnswer = "skipped-layer-in-answer", Any, Output,
        "the same, from the aim's position on only: it is honest in the prompt";
    ScaledCodes = "scaled-codes", Any, Product,
        "multiplies a layer's weights by 1.001 in the integer codes";
    ScaledRowScales = "scaled-row-scales", Any, Kv,
        "multiplies a layer's weights by 1.001 in the f32 row scales only";
    FourBitWeights = "four-bit-weights", Any, Product,
        "computes a layer with codes of 4 bits, or of 2 where the model's have 4";
    SwappedLayers = "swapped-layers", Any, Product | Sums,
        "computes two layers with each other's weights";
    FlippedBit = "flipped-bit", Any, Output,
        "flips one bit of one state and computes on from there";
    OldState = "old-state", Any, Output,
        "gives the state of the position before";
    ConstantState = "constant-state", Any, Output,
        "gives the same state for every position";
    ZeroState = "zero-state", Any, Output,
        "gives zeros";
    OverflowState = "overflow-state", Any, Output,
        "says that one of its cells overflowed, marker and all";
    WrongKv = "wrong-kv", Any, Kv,
        "writes a wrong KV row at one position, into cache and column alike";
    TruncatedContext = "truncated-context", Any, Product,
        "attends to the last four positions only";
    WrongRope = "wrong-rope-base", Any, Kv,
        "turns queries and keys of a layer by the powers of another base";
    WrongActivation = "wrong-activation", Any, Product,
        "computes a layer with SiLU where the model has GELU, or the other way round";
    LeftOutBiases = "left-out-biases", Any, Kv,
        "leaves the biases of a layer out";
    LeftOutHeadNorms = "left-out-head-norms", Any, Kv,
        "does not normalise the query and key heads of a layer";
    LeftOutPostNorms = "left-out-post-norms", Any, Product,
        "does not normalise what the parts of a layer give";
    IgnoredWindow = "ignored-window", Any, Product,
        "attends to all positions in a layer that has a window";
    OtherRouter = "other-router", Any, Product,
        "multiplies the router of a layer by 1.001 in the integer codes";
    OtherChoice = "other-choice-of-experts", Any, Product,
        "sends rows to the experts of the lowest logits; the router's sums are right";
    SwappedExperts = "swapped-experts", Any, Product,
        "computes each expert of a layer with the weights of the next one";
    OtherWeights = "other-weights-of-experts", Any, Output,
        "adds up what the right experts give with other weights; all sums are right";
    LeftOutSharedExpert = "left-out-shared-expert", Any, Output,
        "computes the shared expert of a layer, but does not add what it gives";
    UnscaledEmbedding = "unscaled-embedding", First, EmbeddingRoot,
        "does not scale embeddings, and commits to them as they are";
    WrongEmbedding = "wrong-embedding", First, EmbeddingRoot,
        "embeds another token than the client's and commits to it";
    HiddenEmbedding = "hidden-embedding", First, Product,
        "embeds another token than the client's, but commits to the right one and opens it";
    AnotherPrompt = "another-prompt", First, Product,
        "embeds other tokens before the aim's position, but commits to the right ones";
    SecondBest = "second-best-token", First, Token,
        "gives the second-best token; its logits are right";
    IgnoredSeed = "ignored-seed", First, Token,
        "samples with a seed of its own";
    EarlyEnd = "early-end-token", First, Token,
        "says that the sampler chose the end token";
    FalseOverflow = "false-overflow", First, NoOverflow,
        "says that the logits overflowed";
    StopsEarly = "stops-early", First, StopRules,
        "ends the answer after one token, everything properly signed";
    GoesOn = "goes-on", First, StopRules,
        "does not end the answer at an end token";
    StreamsOther = "streams-other-token", First, StreamedToken,
        "streams another token than it signs";
    SendsOther = "sends-other-state", Any, Mark,
        "sends and marks another state than it commits to";
    ReceivesOther = "receives-other-state", Later, Mark,
        "computes from another state than it got and marked";
    WrongMark = "wrong-mark", Any, BadMark,
        "signs another output digest than that of the state it sends";
    NonCanonicalState = "non-canonical-state", Any, BadState,
        "sends a state that no computation gives, where NaN would be";
    TwoMarks = "two-marks", Passing, TwoMarks | Mark,
        "signs one mark for the next server and another for the client";
    OtherMarkInput = "other-mark-input", Later, Mark | Shown,
        "signs in its mark that it got another state than it did";
    OtherLease = "other-lease", Handing, Unbound,
        "hands another lease on than the client's, signed by a key that it names as the session's";
    OtherSessionKey = "other-session-key", Handing, Unbound,
        "signs the lease that it hands on again, with a session key of its own";
    MixedRuns = "mixed-runs", First, Unbound,
        "puts what another server signed in an earlier run of the session into this one";
    HiddenTail = "hidden-tail", First, HeldBack,
        "has the ring compute more positions than it tells";
    IgnoredOverflow = "ignored-overflow", First, Token,
        "gives a token where the head gives none";
    OtherStatesRoot = "other-states-root", Any, Slice,
        "signs one root for a layer's states and opens another";
    OtherKvRoot = "other-kv-root", Any, Slice,
        "signs one root for a layer's KV rows and opens another";
    OtherInputRoot = "other-input-root", Later, Slice,
        "signs one root for what it received and opens another";
    SumOffByOne = "sum-off-by-one", Any, Product,
        "claims a sum that is one too large";
    SumPlusP = "sum-plus-p", Any, Product,
        "adds the field's p to a sum, cut to the bits that a sum may have";
    SumPlusPWide = "sum-plus-p-wide", Any, Sums,
        "adds the field's p to a sum and encodes it in as many bits as that takes";
    SumOutOfRange = "sum-out-of-range", Any, Sums,
        "claims a sum just above the largest that any input gives";
    OtherSession = "other-session", Any, Slice,
        "answers with its openings of another session, freshly signed";
    OtherLayer = "other-layer", Any, Slice,
        "opens valid cells of another layer";
    OtherPosition = "other-position", Any, Slice | Embedding | Product,
        "opens valid cells of other positions";
    GarbageOpening = "garbage-opening", Any, Encoding,
        "signs noise as an opening";
    CutOpening = "cut-opening", Any, Encoding,
        "signs half an opening";
    LongOpening = "long-opening", Any, Encoding,
        "signs an opening with a byte behind it";
    Withheld = "withheld-opening", Any, Unanswered,
        "does not answer challenges";
}

/// Up to here no embedding overflows, whatever its weights.
const EMBEDDINGS_FIT: f32 = 1024.0;

impl Lie {
    /// Returns the script that tells the lie in the layer `layer` and at `position`. A lie about
    /// neither takes no notice of them.
    #[must_use]
    pub const fn at(self, layer: u32, position: u32) -> Script {
        Script { lie: self, aim: Aim { layer, position } }
    }

    /// Returns whether the lie is told by changing frames on their way, and not by what the server
    /// computes.
    #[must_use]
    pub const fn is_told_in_frames(self) -> bool {
        matches!(
            self,
            Self::HiddenTail
                | Self::MixedRuns
                | Self::OtherLease
                | Self::OtherMarkInput
                | Self::OtherSessionKey
                | Self::StreamsOther
                | Self::TwoMarks
        )
    }

    /// Returns whether the layer `layer` of a model has what the lie is about.
    #[must_use]
    pub fn fits(self, manifest: &Manifest, layer: u32) -> bool {
        let has = manifest.layers.get(layer as usize).is_some_and(|plan| match self {
            Self::LeftOutBiases => {
                plan.parts.products().iter().any(|(_, product)| product.bias.is_some())
            }
            Self::OtherChoice | Self::OtherRouter | Self::OtherWeights | Self::SwappedExperts => {
                plan.parts.feed_forward.experts().is_some()
            }
            Self::LeftOutSharedExpert => {
                plan.parts.feed_forward.experts().is_some_and(|experts| experts.shared.is_some())
            }
            Self::LeftOutHeadNorms => plan.parts.head_norms.is_some(),
            Self::LeftOutPostNorms => plan.parts.post_norms.is_some(),
            Self::IgnoredWindow => plan.attention.window > 0,
            _ => true,
        });
        let can_overflow = manifest.head.embedding_scale > EMBEDDINGS_FIT;
        let has = has && (self != Self::IgnoredOverflow || can_overflow);
        has && (self != Self::UnscaledEmbedding || manifest.head.embedding_scale != 1.0)
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no lie's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchLie(String);

impl fmt::Display for NoSuchLie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Lie::ALL.iter().map(|lie| lie.name()).collect();
        write!(f, "no lie {:?}; there are: {}", self.0, names.join(", "))
    }
}

impl std::error::Error for NoSuchLie {}

impl FromStr for Lie {
    type Err = NoSuchLie;

    fn from_str(text: &str) -> Result<Self, NoSuchLie> {
        let found = Self::ALL.iter().copied().find(|lie| lie.name() == text);
        found.ok_or_else(|| NoSuchLie(text.to_owned()))
    }
}

/// The layer and the position at which a lie is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// The layer that is computed, committed to or opened wrongly, for lies about one layer.
    pub layer: u32,
    /// The position, for lies about one; lies of the sampler are told from here on.
    pub position: u32,
}

/// A lie and where it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// The lie of the catalogue that is told.
    pub lie: Lie,
    /// The layer and the position at which it is told.
    pub aim: Aim,
}

impl Script {
    /// Returns whether the script tells the lie `lie` in this layer.
    #[must_use]
    pub(crate) fn is(&self, lie: Lie, layer: u32) -> bool {
        self.lie == lie && self.aim.layer == layer
    }
}
