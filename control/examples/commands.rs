//! Prints the reference page of the commands and of their JSON.

fn main() {
    print!("{}", dray_control::reference::reference());
}
