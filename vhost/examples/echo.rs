//! A container's whole network function: attaches to a memif port and sends every frame back to where it came from.
//!
//!     cargo run --release -p dray-vhost --example echo -- /run/dray/web/memif.sock 0

use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};

fn main() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let socket: SocketName = args.next().ok_or("usage: echo SOCKET ID")?.parse()?;
    let id = args.next().and_then(|id| id.parse().ok()).ok_or("usage: echo SOCKET ID")?;

    let mut client = Client::connect(&socket, id, &ClientOptions { name: "echo".into(), ..Default::default() })?;
    println!("attached to id {id} on {socket}");
    let mut frame = [0; 9216];
    loop {
        while let Some(len) = client.rx[0].recv(&mut frame) {
            if len >= 12 {
                let (to, from) = frame[..12].split_at_mut(6);
                to.swap_with_slice(from);
                client.tx[0].send(&frame[..len]);
            }
        }
        if let Some(reason) = client.down() {
            return Err(reason);
        }
        std::thread::yield_now();
    }
}
