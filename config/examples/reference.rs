//! Prints the reference page of the configuration file.

fn main() {
    print!("{}", dray_config::reference());
}
