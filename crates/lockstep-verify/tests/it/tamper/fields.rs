//! What the table must have a row for.

use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::Challenge;
use lockstep_verify::opening::{HeadOpening, LayerOpening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Lease, Request, Reuse};
use lockstep_verify::slice::Slice;
use lockstep_verify::statement::{HeadStatement, LayerRoots, Mark, Segment, Step, Takeover};

/// Names of a struct's fields. A field that is not listed does not compile.
macro_rules! fields {
    ($name:ident { $($field:ident),* $(,)? }) => {{
        fn _complete(value: &$name) {
            let $name { $($field: _),* } = value;
        }
        [$(concat!(stringify!($name), ".", stringify!($field))),*].to_vec()
    }};
}

/// The fields of receipts and of what answers challenges.
fn fields_of_receipts() -> Vec<&'static str> {
    [
        fields!(Receipt {
            request,
            lease,
            placements,
            answer,
            finish,
            segments,
            head,
            steps,
            head_marks
        }),
        fields!(Challenge { session, run, receipt, target, signature }),
        fields!(SignedOpening { challenge, body, signature }),
        fields!(Exchange { challenge, opening }),
        fields!(Bundle { receipt, extent, seed, exchanges }),
        fields!(LayerOpening { kv, inputs, outputs, sums }),
        fields!(HeadOpening { states, sums }),
        fields!(Slice { bytes, siblings }),
    ]
    .concat()
}

/// Everything that the table must have a row for.
pub(super) fn all_fields() -> Vec<&'static str> {
    [
        fields!(Request {
            manifest,
            adapters,
            prompt,
            sampling,
            stops,
            nonce,
            session_key,
            audit_commitment
        }),
        fields!(Mark {
            first,
            end,
            epoch,
            position,
            count,
            chain_before,
            input,
            output,
            signature
        }),
        fields!(Step { position, count, marks }),
        fields!(LayerRoots { states, kv }),
        fields!(Reuse { session, length }),
        fields!(Lease {
            session,
            epoch,
            manifest,
            adapters,
            reuse,
            session_key,
            prompt_len,
            max_positions,
            route,
            addresses,
            signature
        }),
        fields!(Segment {
            session,
            lease,
            before,
            takeovers,
            run_value,
            node,
            first,
            end,
            first_position,
            positions,
            input_root,
            layers,
            chain,
            deadline_unix_ms,
            signature
        }),
        fields!(HeadStatement { session, before, takeovers, tokens, finish, chain, signature }),
        fields!(Takeover { position, run }),
        fields_of_receipts(),
    ]
    .concat()
}
pub(super) use fields;
