//! Prints the page on what to do about drops, from the reasons as they are declared.

use dray_switch::Drop;

const INTRODUCTION: &str = "\
# Troubleshooting

<!-- Made by `cargo run -p dray-switch --example troubleshooting > docs/troubleshooting.md`; do not edit. -->

Nothing is dropped silently: each dropped packet is counted for a port, with a reason. Where to look, in this order:

```sh
dray port show                                 # which ports are up; `dray port show NAME` says why one is down
dray drop show                                 # what is dropped, where, the usual cause and what to do
dray watch --kind drop                         # drops as they begin
dray fdb show --mac 02:00:00:00:00:01          # which port or VTEP an address is behind
```

A port that is up, receives nothing (`dray port show NAME`) and drops nothing has a peer that sends nothing. A ping that works beside a
TCP connection that doesn't is a matter of offloads or MTU: [The first hour](first-hour.md#5-when-nothing-arrives).

Reasons that begin with `tx.` count for the port that packets were to leave through, all others for the one they came from. In what is to
be done, NAME is a port, BRIDGE a bridge, DEV an interface of Linux.
";

fn main() {
    print!("{INTRODUCTION}");
    for drop in Drop::ALL {
        println!("\n## {}\n\n{}", drop.name(), drop.description());
        println!("\n- **Usual cause:** {}\n- **What to do:** {}", drop.cause(), drop.remedy());
    }
}
