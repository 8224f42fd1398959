//! The one loop in which every machine runs, and what connects a machine to the world.

use std::future::Future;

use lockstep_proto::machine::Machine;

use super::clock::{Clock, until};

/// What follows for a machine.
#[derive(Debug)]
pub(super) enum Next<Input, End> {
    /// It waits.
    Nothing,
    /// It takes this input at once.
    Input(Input),
    /// It is not driven any further.
    Over(End),
}

/// What follows for a machine `M` that is driven until `P` ends it.
pub(super) type NextOf<M, P> = Next<<M as Machine>::Input, <P as Port<M>>::End>;

/// What connects a machine to links, threads and callers. [`drive`] calls [`Port::perform`] for
/// every output of the machine; when there is none left, [`Port::hear`], and [`Port::take`] with
/// what that has heard.
pub(super) trait Port<M: Machine> {
    /// What comes from outside, before it is an input of the machine.
    type Arrival;
    /// How it ends.
    type End;

    /// Waits for what comes next. The future is dropped when the machine's deadline comes before,
    /// and must lose nothing then.
    fn hear(&mut self) -> impl Future<Output = Self::Arrival> + Send;

    /// Makes an input of what has come. The machine's time stands still meanwhile.
    fn take(
        &mut self,
        machine: &mut M,
        heard: Self::Arrival,
    ) -> impl Future<Output = NextOf<M, Self>> + Send
    where
        Self: Sized;

    /// Does what the machine wants, without waiting.
    fn perform(&mut self, output: M::Output) -> NextOf<M, Self>
    where
        Self: Sized;

    /// How the machine has ended, if it says of itself that it has.
    fn ended(&self, machine: &M) -> Option<Self::End>;
}

/// Drives a machine until its port says that it is over.
pub(super) async fn drive<M: Machine, P: Port<M>>(
    clock: Clock,
    machine: &mut M,
    port: &mut P,
) -> P::End {
    loop {
        while let Some(output) = machine.poll() {
            match port.perform(output) {
                Next::Nothing => {}
                Next::Input(input) => machine.handle(clock.now(), input),
                Next::Over(end) => return end,
            }
        }
        if let Some(end) = port.ended(machine) {
            return end;
        }
        let deadline = machine.deadline();
        let heard = tokio::select! {
            heard = port.hear() => Some(heard),
            () = until(clock, deadline) => None,
        };
        let next = match heard {
            Some(heard) => port.take(machine, heard).await,
            None => Next::Input(M::TICK),
        };
        match next {
            Next::Nothing => {}
            Next::Input(input) => machine.handle(clock.now(), input),
            Next::Over(end) => return end,
        }
    }
}
