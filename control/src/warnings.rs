//! What is not as it should be though frames pass: for the log and `port show`.

use crate::log::log;
use crate::switch::Switch;
use dray_config::{Mtus, Port};

impl Switch {
    /// The MTUs of the running configuration. A device may carry less than its port was asked for.
    pub(crate) fn mtus(&self) -> Mtus<'_> {
        self.config.mtus(|port| self.ports.eth(&port.name).map_or(port.mtu, |eth| port.mtu.min(eth.info().mtu)))
    }

    /// Says of which bridges members have a larger MTU than fits, of each once until that changes.
    pub(crate) fn warn_of_mtus(&mut self) {
        let warnings = self.mtus().warnings();
        for warning in warnings.iter().filter(|warning| !self.warned.contains(*warning)) {
            log(format!("warning: {warning}"));
        }
        self.warned = warnings.into_iter().collect();
    }

    /// What is to be said of `port`.
    pub(crate) fn warnings(&self, port: &Port, mtus: &Mtus<'_>) -> Vec<String> {
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
        warnings.extend(mtus.port_warning(port));
        warnings
    }
}
