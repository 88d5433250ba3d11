//! What ports have in common whose device is opened on a thread of its own and tried again: NICs, interfaces of the kernel's, TAP devices.

use super::{Attached, Change, Device, Driver, Host, Link};
use crossbeam_channel::Receiver;
use dray_api::PortInfo;
use dray_config::Port;
use dray_dataplane::DeviceLosses;
use std::time::{Duration, Instant};

/// A device that can be opened.
pub trait Opens {
    /// It, open.
    type Open;

    /// After a refusal it is tried again after this time. If it is missing it costs nothing: it is tried when it appears.
    const PAUSE: Duration;

    /// Why it can't be opened yet, as far as that is known without trying. Does not wait.
    fn missing(&self) -> Option<String>;

    /// Has another thread open it, which has the port polled when it has answered.
    fn start(&self) -> Receiver<Result<Self::Open, String>>;

    /// What it brings, and its link. Lines for the log go into `log`.
    fn attach(&mut self, open: &mut Self::Open, log: &mut Vec<String>) -> (Attached, Link);

    /// Looks at it; at what takes time only if `all`. Its link, if that was looked at.
    ///
    /// # Errors
    /// Why it is no longer what was opened. It is dropped then, and tried again.
    fn watch(&mut self, open: &mut Self::Open, all: bool, log: &mut Vec<String>) -> Result<Option<Link>, String>;

    /// It is no longer what was opened, and is to be dropped. What that blocks on is another thread's.
    fn lost(&mut self, _open: Self::Open) {}

    /// Whether it can never be opened (again): the port has nothing left to do.
    fn is_over(&self) -> bool {
        false
    }

    /// All that it has lost since it was opened, if it says so.
    fn losses(&self, open: &Self::Open) -> Option<DeviceLosses>;

    /// What it turned out to be.
    fn device(&self, _open: &Self::Open) -> Option<Device> {
        None
    }

    /// What it is now, for `port show`.
    fn describe(&self, open: &Self::Open, info: &mut PortInfo);

    /// The port's MTU or address has changed.
    fn update(&mut self, _open: Option<&mut Self::Open>, _port: &Port) {}

    /// Whether the underlay's link is up, or there is none.
    fn follow(&mut self, _underlay: bool) {}

    /// The port is closed. Dropping the device closes it. `stays`: as in [`Driver::close`].
    fn close(&mut self, _state: State<Self::Open>, _stays: bool) {}
}

/// How far a device is.
pub enum State<Open> {
    /// Not to be tried before this time.
    Waits(Instant),
    /// Another thread has it, and answers there.
    Opening(Receiver<Result<Open, String>>),
    Open(Open),
}

/// A port's device, open or to be opened.
pub struct Tried<T: Opens> {
    what: T,
    state: State<T::Open>,
    /// What the open device had lost when it was last asked.
    counted: DeviceLosses,
    /// What was lost since [`Driver::take_losses`] was last called.
    lost: DeviceLosses,
}

impl<T: Opens> Tried<T> {
    /// To be opened when it is first polled.
    pub fn new(what: T) -> Tried<T> {
        let nothing = DeviceLosses::default();
        Tried { what, state: State::Waits(Instant::now()), counted: nothing, lost: nothing }
    }

    /// Has the device opened, if it may be tried. Why the port is down, if it may not as the device is not there.
    fn try_open(&mut self, at: Instant, now: Instant) -> Option<Change> {
        if let Some(missing) = self.what.missing() {
            // As soon as it is there, it may be tried.
            self.state = State::Waits(now);
            return Some(Change::Link(Link::Down(missing)));
        }
        if now >= at {
            self.state = State::Opening(self.what.start());
        }
        None
    }

    /// Takes up what became of a try.
    fn opened(&mut self, opened: Result<T::Open, String>, now: Instant, log: &mut Vec<String>) -> Change {
        match opened {
            Ok(mut open) => {
                let (attached, link) = self.what.attach(&mut open, log);
                (self.state, self.counted) = (State::Open(open), DeviceLosses::default());
                Change::Attached(attached, link)
            }
            Err(why) => {
                self.state = State::Waits(now + T::PAUSE);
                Change::Link(Link::Down(why))
            }
        }
    }

    /// Asks an open device what it has lost.
    fn count(&mut self) {
        let State::Open(open) = &self.state else { return };
        let Some(now) = self.what.losses(open) else { return };
        let before = std::mem::replace(&mut self.counted, now);
        self.lost.missed += now.missed.saturating_sub(before.missed);
        self.lost.rx_errors += now.rx_errors.saturating_sub(before.rx_errors);
        self.lost.tx += now.tx.saturating_sub(before.tx);
    }
}

impl<T: Opens> Driver for Tried<T> {
    fn poll(&mut self, all: bool, now: Instant, log: &mut Vec<String>) -> Option<Change> {
        match &mut self.state {
            State::Waits(at) => {
                let at = *at;
                self.try_open(at, now)
            }
            State::Opening(opened) => {
                let opened = opened.try_recv().ok()?;
                Some(self.opened(opened, now, log))
            }
            State::Open(open) => match self.what.watch(open, all, log) {
                Ok(link) => link.map(Change::Link),
                Err(why) => {
                    self.count();
                    // It is opened anew as soon as it can be.
                    if let State::Open(open) = std::mem::replace(&mut self.state, State::Waits(now)) {
                        self.what.lost(open);
                    }
                    Some(Change::Detached(why))
                }
            },
        }
    }

    fn update(&mut self, port: &Port, _host: &Host) {
        let open = if let State::Open(open) = &mut self.state { Some(open) } else { None };
        self.what.update(open, port);
    }

    fn is_over(&self) -> bool {
        self.what.is_over()
    }

    fn take_losses(&mut self) -> DeviceLosses {
        self.count();
        std::mem::take(&mut self.lost)
    }

    fn device(&self) -> Option<Device> {
        if let State::Open(open) = &self.state { self.what.device(open) } else { None }
    }

    fn describe(&self, info: &mut PortInfo) {
        if let State::Open(open) = &self.state {
            self.what.describe(open, info);
        }
    }

    fn follow(&mut self, underlay: bool) {
        self.what.follow(underlay);
    }

    fn close(&mut self, _host: &Host, stays: bool) {
        self.what.close(std::mem::replace(&mut self.state, State::Waits(Instant::now())), stays);
    }
}
