//! Messages without end: such as change rings and memory under traffic, mutated ones, halves, and ones whose answers nobody reads.

use super::Case;
use super::closing::{memif_port, vm_port};
use super::memif::{Offer, Raw, memfd};
use super::place::{Place, X};
use super::vm::{BYTES, UVA, Vm, addresses, dial, negotiate, words};
use dray_testing::Random;
use dray_vhost::memif::proto::Message;
use dray_vhost::vhost_user::frontend::message::{VERSION, protocol, request};
use std::os::fd::AsFd;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "ring-addresses",
        what: "SET_VRING_ADDR without end, of a virtual machine whose rings run, from one place to another and back",
        configuration: vm_port,
        attack: ring_addresses,
        ..Case::NOTHING
    },
    Case {
        name: "memory-table",
        what: "SET_MEM_TABLE without end, of a virtual machine whose rings run",
        configuration: vm_port,
        attack: memory_table,
        ..Case::NOTHING
    },
    Case {
        name: "memif-mutated",
        what: "memif messages that are wrong somewhere, without end",
        configuration: memif_port,
        attack: memif_mutated,
        ..Case::NOTHING
    },
    Case {
        name: "vm-mutated",
        what: "the same of vhost-user",
        configuration: vm_port,
        attack: vhost_user_mutated,
        ..Case::NOTHING
    },
    Case {
        name: "half-messages",
        what: "a vhost-user message of which half is sent, with descriptors, and then nothing",
        configuration: vm_port,
        attack: half_messages,
        ..Case::NOTHING
    },
    Case {
        name: "unread-answers",
        what: "vhost-user requests whose answers nobody reads",
        configuration: vm_port,
        attack: unread_answers,
        ..Case::NOTHING
    },
];

/// A machine whose rings run; again and again, as long as the attack goes on, if `act` says that it is gone.
fn with_vm(place: &Place, mut act: impl FnMut(&Vm, u64) -> Result<(), String>) -> Result<(), String> {
    let first = Vm::new(&place.vm(), 0, BYTES, false)?;
    first.start()?;
    place.begin();
    let mut vm = Some(first);
    while place.goes_on() {
        match &vm {
            Some(machine) => {
                let gone = act(machine, place.tries()).is_err();
                place.tried(1);
                if gone {
                    vm = None;
                }
            }
            None => {
                vm = Vm::new(&place.vm(), 0, BYTES, false).ok().filter(|vm| vm.start().is_ok());
                place.pause(Duration::from_millis(1));
            }
        }
    }
    Ok(())
}

fn ring_addresses(place: &Place) -> Result<(), String> {
    with_vm(place, |vm, i| vm.connection.set_vring_addr((i / 2 % 2) as u32, &addresses((i / 2 % 2) as u32, i % 2 == 0)))
}

fn memory_table(place: &Place) -> Result<(), String> {
    with_vm(place, |vm, _| vm.set_memory(&vm.memory))
}

fn memif_mutated(place: &Place) -> Result<(), String> {
    let mut random = Random(0x5eed_0001);
    let memory = memfd(1 << 20)?;
    place.begin();
    while place.goes_on() {
        let Some(raw) = Raw::dial(&place.memif()) else {
            place.pause(Duration::from_millis(1));
            continue;
        };
        let ring = |s2m| Message::AddRing { s2m, index: 0, region: 0, offset: 0, log2_size: 8, private_header: 0 };
        let messages =
            [Offer::of(X).init(None), Message::AddRegion { index: 0, size: 1 << 20 }, ring(true), ring(false)];
        let wrong = random.below(messages.len() as u64) as usize;
        for (i, message) in messages.iter().enumerate() {
            let mut bytes = message.encode().to_vec();
            if i == wrong {
                match random.below(3) {
                    0 => bytes.truncate(1 + random.below(127) as usize),
                    1 => bytes[random.below(2) as usize] = random.word() as u8,
                    _ => bytes.iter_mut().for_each(|byte| *byte = random.word() as u8),
                }
            }
            let fds = [memory.as_fd()];
            if !raw.send_bytes(&bytes, if i == 1 || random.below(4) == 0 { &fds } else { &[] }) {
                break;
            }
        }
        place.tried(1);
    }
    Ok(())
}

fn vhost_user_mutated(place: &Place) -> Result<(), String> {
    let mut random = Random(0x5eed_0002);
    let memory = memfd(BYTES)?;
    place.begin();
    while place.goes_on() {
        place.tried(1);
        let Ok(connection) = negotiate(&place.vm(), 0, protocol::MQ | protocol::CONFIGURE_MEM_SLOTS) else { continue };
        for _ in 0..8 {
            let body: Vec<u8> = (0..random.below(64)).map(|_| random.word() as u8 & 3).collect();
            let fds = [memory.as_fd()];
            let number = 1 + random.below(45) as u32;
            if connection.send(number, VERSION, &body, &fds[..random.below(2) as usize]).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn half_messages(place: &Place) -> Result<(), String> {
    let memory = memfd(BYTES)?;
    place.begin();
    while place.goes_on() {
        if let Ok(connection) = dial(&place.vm()) {
            let _ = connection.send_raw(&words(&[request::SET_MEM_TABLE, VERSION, 40]), &[memory.as_fd()]);
            let _ = connection.send_raw(&UVA.to_ne_bytes(), &[memory.as_fd()]);
            place.tried(1);
            while place.pause(Duration::from_millis(10)) && connection.down().is_none() {}
        }
    }
    Ok(())
}

fn unread_answers(place: &Place) -> Result<(), String> {
    place.begin();
    while place.goes_on() {
        if let Ok(connection) = dial(&place.vm()) {
            // Ends when the switch reads no more, or closes the connection.
            while place.goes_on() && connection.send(request::GET_FEATURES, VERSION, &[], &[]).is_ok() {
                place.tried(1);
            }
        }
        place.pause(Duration::from_millis(1));
    }
    Ok(())
}
