//! Connections without end, half-open ones, and ones that ask for what they must not have.

use super::Case;
use super::closing::{memif_port, vm_port};
use super::memif::{Heard, Offer, Raw, RawLink};
use super::place::{HELPER, Place, X, bridge, memif};
use super::vm::{BYTES, Vm, dial};
use dray_vhost::memif::proto::Message;
use std::time::Duration;

/// Connections that are held half-open.
const HALF_OPEN: usize = 128;
/// Guesses at a secret a second: some at once, and then fewer and fewer.
const GUESSES: f64 = 20.0;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "memif-reconnect",
        what: "a memif client that connects, and leaves at once, without a breath",
        configuration: memif_port,
        attack: reconnect,
        ..Case::NOTHING
    },
    Case {
        name: "memif-half-open",
        what: "128 connections to the socket of all memif ports that say nothing",
        configuration: memif_port,
        attack: half_open,
        ..Case::NOTHING
    },
    Case {
        name: "memif-secrets",
        what: "a client that guesses a port's secret: at most 20 guesses a second are looked at",
        configuration: |dir| memif(dir, "x", X, "secret = \"the right one\"") + &bridge("\"x\""),
        attack: secrets,
        adjust: |limits| limits.tries_per_second = GUESSES,
        ..Case::NOTHING
    },
    Case {
        name: "memif-excess",
        what: "a client that brings 16 queue pairs of 16,384 descriptors where one of 256 is allowed",
        configuration: |dir| memif(dir, "x", X, "queues = 1\nring-size = 256") + &bridge("\"x\""),
        attack: excess,
        ..Case::NOTHING
    },
    Case {
        name: "vm-reconnect",
        what: "a virtual machine that connects, starts its rings, and leaves at once, without a breath",
        configuration: vm_port,
        attack: vm_reconnect,
        ..Case::NOTHING
    },
    Case {
        name: "vm-half-open",
        what: "128 connections to a vhost-user port's socket that say nothing",
        configuration: vm_port,
        attack: vm_half_open,
        ..Case::NOTHING
    },
    Case {
        name: "memif-blocks",
        what: "a sleeping memif client whose eventfd hangs whoever wakes it",
        configuration: |dir| memif_port(dir).replace("\"x\"]", "\"x\", \"y\"]") + &memif(dir, "y", HELPER, ""),
        attack: |place| {
            super::worker::blocking(place, |place| {
                RawLink::open(&place.memif(), Offer { hangs: true, ..Offer::of(X) })
                    .map(|link| Box::new(link) as Box<dyn std::any::Any>)
            })
        },
        ..Case::NOTHING
    },
    Case {
        name: "vm-blocks",
        what: "a virtual machine whose interrupts hang whoever makes them",
        configuration: |dir| vm_port(dir).replace("\"x\"]", "\"x\", \"y\"]") + &memif(dir, "y", HELPER, ""),
        attack: |place| {
            super::worker::blocking(place, |place| {
                let vm = Vm::new(&place.vm(), 0, BYTES, true)?;
                vm.start()?;
                Ok(Box::new(vm))
            })
        },
        ..Case::NOTHING
    },
];

fn reconnect(place: &Place) -> Result<(), String> {
    place.begin();
    while place.goes_on() {
        match RawLink::offer(&place.memif(), Offer::of(X)) {
            // Every other one leaves before it is answered.
            Ok(link) if place.tries().is_multiple_of(2) => drop(link.raw.connected()),
            Ok(_) => {}
            Err(_) => drop(place.pause(Duration::from_millis(1))),
        }
        place.tried(1);
    }
    Ok(())
}

fn half_open(place: &Place) -> Result<(), String> {
    let mut held: Vec<Raw> = Vec::new();
    place.begin();
    while place.pause(Duration::from_millis(1)) {
        held.retain(|raw| !matches!(raw.receive(Duration::ZERO), Heard::Closed));
        while held.len() < HALF_OPEN {
            let Some(raw) = Raw::dial(&place.memif()) else { break };
            place.tried(1);
            held.push(raw);
        }
    }
    Ok(())
}

fn secrets(place: &Place) -> Result<(), String> {
    place.begin();
    for guess in 0.. {
        if !place.goes_on() {
            break;
        }
        let Some(raw) = Raw::dial(&place.memif()) else {
            place.pause(Duration::from_millis(1));
            continue;
        };
        raw.send(&Offer::of(X).init(Some(&format!("guess {guess}"))), &[]);
        // HELLO, and then the answer.
        loop {
            match raw.receive(Duration::from_secs(2)) {
                Heard::Message(Message::Hello { .. }) => {}
                Heard::Message(Message::Disconnect { reason, .. }) => {
                    break place.tried(u64::from(reason == "secret does not match"));
                }
                Heard::Closed => break,
                Heard::Message(_) => break place.won("a wrong secret was taken".into()),
                Heard::Nothing => break,
            }
        }
    }
    Ok(())
}

fn excess(place: &Place) -> Result<(), String> {
    place.begin();
    let offers = [
        Offer { queues: 16, log2: 14, bytes: 1 << 26, ..Offer::of(X) },
        Offer { log2: 14, bytes: 1 << 26, ..Offer::of(X) },
        Offer { queues: 2, ..Offer::of(X) },
    ];
    for offer in offers.iter().cycle() {
        place.tried(1);
        if RawLink::open(&place.memif(), *offer).is_ok() {
            place.won(format!("{} queue pairs of {} descriptors", offer.queues, 1 << offer.log2));
        }
        if !place.pause(Duration::from_millis(20)) {
            break;
        }
    }
    Ok(())
}

fn vm_reconnect(place: &Place) -> Result<(), String> {
    place.begin();
    while place.goes_on() {
        if let Ok(vm) = Vm::new(&place.vm(), 0, BYTES, false) {
            let _ = vm.start();
        }
        place.tried(1);
    }
    Ok(())
}

fn vm_half_open(place: &Place) -> Result<(), String> {
    let mut held = Vec::new();
    place.begin();
    while place.pause(Duration::from_millis(1)) {
        held.retain(|connection: &dray_vhost::vhost_user::frontend::message::Connection| connection.down().is_none());
        while held.len() < HALF_OPEN && place.goes_on() {
            let Ok(connection) = dial(&place.vm()) else { break };
            place.tried(1);
            held.push(connection);
        }
    }
    Ok(())
}
