//! What all protocol machines have in common: how inputs, outputs and time go in and out.

use crate::client::{ChallengeInput, ChallengeOutput, Challenger, Client};
use crate::now::Now;
use crate::swarm::fetch::{self, Fetch};
use crate::swarm::gossip::{self, Gossip};
use crate::swarm::uploads::{self, Uploads};
use crate::{client, server};

/// A protocol machine: one side of a conversation, as a value. It does no I/O, starts no threads
/// and reads no clock: whoever drives it does that for it.
///
/// A driver repeats three things for as long as the machine lives. It calls [`Machine::poll`] until
/// that gives `None`, and does what each output asks for, in their order. It waits until something
/// comes for the machine, or until [`Machine::deadline`]. And it calls [`Machine::handle`] once,
/// with what came, or with [`Machine::TICK`] if nothing did. The same inputs at the same times give
/// the same outputs.
pub trait Machine {
    /// What comes to the machine from outside.
    type Input;
    /// What the machine wants done.
    type Output;
    /// The input that says nothing but that time has passed.
    const TICK: Self::Input;

    /// Takes one input at the time `now`, which never goes back.
    fn handle(&mut self, now: Now, input: Self::Input);

    /// Returns the next output, or `None` when the machine waits for an input.
    fn poll(&mut self) -> Option<Self::Output>;

    /// Returns the time at which the machine has to be called if nothing comes for it before;
    /// `None` if it waits for an input alone.
    fn deadline(&self) -> Option<Now>;
}

/// The machines have these methods themselves, so that nobody who drives one machine needs the
/// trait.
macro_rules! machine {
    ($machine:ty, $input:ty, $output:ty, $tick:expr) => {
        impl Machine for $machine {
            type Input = $input;
            type Output = $output;
            const TICK: Self::Input = $tick;

            fn handle(&mut self, now: Now, input: Self::Input) {
                <$machine>::handle(self, now, input);
            }

            fn poll(&mut self) -> Option<Self::Output> {
                <$machine>::poll(self)
            }

            fn deadline(&self) -> Option<Now> {
                <$machine>::deadline(self)
            }
        }
    };
}

machine!(server::Server, server::Input, server::Output, server::Input::Tick);
machine!(Client, client::Input, client::Output, client::Input::Tick);
machine!(Gossip, gossip::Input, gossip::Output, gossip::Input::Tick);
machine!(Fetch, fetch::Input, fetch::Output, fetch::Input::Tick);
machine!(Uploads, uploads::Input, uploads::Output, uploads::Input::Tick);
machine!(Challenger, ChallengeInput, ChallengeOutput, ChallengeInput::Tick);
