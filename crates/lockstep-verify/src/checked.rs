//! Products that are claimed and checked instead of computed.
//!
//! [`Checked`] are [`Products`] on the device of any backend in which a matrix is a verifier's
//! [`ProductKey`] and a product is a claim: it is compared in the field and then used as if it had
//! been computed. This is all that an audit implements: everything between the products is done by
//! the device that serves.
//!
//! # Soundness
//! Claims must have been read by [`crate::sums::decode`], which refuses sums outside the range of
//! the matrix.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::cell::RefCell;
use core::convert::Infallible;
use core::fmt;
use core::marker::PhantomData;
use std::borrow::Cow;

use lockstep_exact::experts::Choice;
use lockstep_exact::invariant;
use lockstep_exact::invariant::Broken;
use lockstep_exact::names::ProductName;
use lockstep_exact::ops::{Device, Products};
use lockstep_exact::weights::LayerWeights;

use crate::device::AuditDevice;
use crate::key::ProductKey;

/// The weights of a layer in which products are checked, with vectors on the device `D`.
pub(crate) type CheckedLayer<'k, D> =
    LayerWeights<Check<'k>, <D as Device>::Vector, <D as Device>::Rope>;

/// A product by name, with what checks it.
#[derive(Clone, Copy)]
pub(crate) struct Check<'k> {
    pub(crate) name: ProductName,
    pub(crate) key: &'k ProductKey,
}

/// The claimed sums of each kind of product for the rows of one call of the forward pass.
#[derive(Clone, Default)]
pub(crate) struct Claims<'a>(pub(crate) Vec<Claim<'a>>);

/// The claimed sums of a kind of product, row after row.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) kind: ProductName,
    /// The number of products of the kind that a row has, one after the other.
    pub(crate) times: usize,
    pub(crate) sums: &'a [i64],
}

impl<'a> Claims<'a> {
    pub(crate) fn of_logits(sums: &'a [i64]) -> Self {
        Self(vec![Claim { kind: ProductName::Logits, times: 1, sums }])
    }
}

/// The claimed sums of one product, and the rows of the batch that they belong to if these are not
/// all.
struct Claimed<'a> {
    sums: Cow<'a, [i64]>,
    rows: Option<Vec<usize>>,
}

/// Why a claim is not taken for the product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unproven {
    /// The claim is not the product.
    Wrong {
        name: ProductName,
        /// The row of the batch.
        row: usize,
    },
    /// It was not looked at: an invariant of the verifier's own does not hold.
    Internal(Broken),
}

impl From<Broken> for Unproven {
    fn from(broken: Broken) -> Self {
        Self::Internal(broken)
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong { name, row } => {
                write!(f, "{name}, row {row}: the claim is not the product")
            }
            Self::Internal(broken) => broken.fmt(f),
        }
    }
}

impl From<Infallible> for Unproven {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The operations of an audit: those of a device between the products, and claims in their place.
pub(crate) struct Checked<'a, 'k, D> {
    device: &'a D,
    claims: RefCell<Claims<'a>>,
    /// The experts that the rows of the present layer go to, by its audited router. A probe puts
    /// them here.
    pub(crate) choice: RefCell<Choice>,
    keys: PhantomData<&'k ProductKey>,
}

impl<'a, D> Checked<'a, '_, D> {
    /// Puts claims in the place of products between the operations of `device`.
    pub(crate) fn new(device: &'a D) -> Self {
        Self { device, claims: RefCell::default(), choice: RefCell::default(), keys: PhantomData }
    }

    /// Sets the claims for the next call of the forward pass.
    pub(crate) fn claim(&self, claims: Claims<'a>) {
        self.claims.replace(claims);
    }

    /// The claim for a product with `width` outputs. Of an expert, a row's claims are in the order
    /// of its experts.
    ///
    /// # Errors
    /// [`Broken`]: the sums that were read are not those of the products that the pass computes. An
    /// opening that lacks sums is refused before, so this is nobody's lie.
    fn claimed(&self, name: ProductName, width: usize) -> Result<Claimed<'a>, Broken> {
        let claims = self.claims.borrow();
        let claim = claims.0.iter().find(|claim| claim.kind == name.kind()).copied();
        let claim = claim.ok_or_else(|| Broken::new("a product without a claim"))?;
        let Some(expert) = name.expert() else {
            return Ok(Claimed { sums: Cow::Borrowed(claim.sums), rows: None });
        };
        let (mut sums, mut rows) = (Vec::new(), Vec::new());
        for (row, rank) in self.choice.borrow().rows_of(expert) {
            let at = row.saturating_mul(claim.times).saturating_add(rank);
            let start = at.saturating_mul(width);
            let own = claim.sums.get(start..start.saturating_add(width));
            let own = own.ok_or_else(|| Broken::new("an expert's row without a claim"))?;
            sums.extend_from_slice(own);
            rows.push(row);
        }
        Ok(Claimed { sums: Cow::Owned(sums), rows: Some(rows) })
    }
}

impl<'k, D: AuditDevice> Products for Checked<'_, 'k, D> {
    type Device = D;
    type Matrix = Check<'k>;
    type Error = Unproven;

    fn device(&self) -> &D {
        self.device
    }

    fn matmul(&self, weights: &Check<'k>, x: &D::Codes, out: &mut D::Sums) -> Result<(), Unproven> {
        let (name, key) = (weights.name, weights.key);
        let shape = key.shape();
        let Ok(codes) = self.device.read_codes(x);
        let claimed = self.claimed(name, shape.rows)?;
        let inputs = codes.chunks_exact(shape.columns.max(1));
        let outputs = claimed.sums.chunks_exact(shape.rows.max(1));
        // A remainder would be found wrong by the comparison below, and convict an honest stage.
        invariant!(inputs.remainder().is_empty(), "inputs that are not whole rows");
        invariant!(outputs.remainder().is_empty(), "claims that are not whole rows");
        invariant!(inputs.len() == outputs.len(), "not as many claims as rows");
        if let Some(wrong) = key.first_wrong(self.device, &codes, &claimed.sums) {
            let row = claimed.rows.map_or(Some(wrong), |rows| rows.get(wrong).copied());
            let row = row.ok_or_else(|| Broken::new("a wrong claim of no row"))?;
            return Err(Unproven::Wrong { name, row });
        }
        self.device.write_sums(shape.rows, &claimed.sums, out);
        Ok(())
    }
}
