//! What is not as it should be though frames pass: for `port show`.

use crate::switch::Switch;
use dray_config::Port;

impl Switch {
    /// What is to be said of `port`.
    pub(crate) fn warnings(&self, port: &Port) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(eth) = self.ports.eth(&port.name)
            && eth.info().mtu < port.mtu
        {
            warnings.push(format!(
                "the device's MTU is {}, the port's {}: longer frames are dropped as tx.too_big",
                eth.info().mtu,
                port.mtu
            ));
        }
        warnings
    }
}
