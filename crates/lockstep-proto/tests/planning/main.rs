//! Plans over what servers announce, held against plain searches through everything that is
//! possible: rings, flows, places.

mod choices;
mod costs;
mod flows;
mod hostile;
mod places;
mod plans;
mod routes;
mod support;
mod trust;
