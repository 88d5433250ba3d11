//! What one list of the stages makes.

/// Makes all that there is of each stage from one list: its number, its name, its time, its state, whether a port wants it, its turn, its
/// reasons and counters, its row in docs/architecture.md, its column in dataplane/benches. Its file is named as it is.
macro_rules! stages {
    (
        first: $(#[doc = $first_doc:literal])+ $first:ident = $first_name:literal;
        stages: $($(#[doc = $doc:literal])+ $stage:ident in $module:ident $(by $table:ty)?;)*
        last: $(#[doc = $last_doc:literal])+ $last:ident = $last_name:literal;
    ) => {
        /// What a worker does with a burst, in order: what ports do first and last, and the stages of the pipeline between.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $(#[doc = $first_doc])+ $first,
            $($(#[doc = $doc])+ $stage,)*
            $(#[doc = $last_doc])+ $last,
        }

        impl Stage {
            /// All of them, in order.
            pub const ALL: &[Stage] = &[Stage::$first, $(Stage::$stage,)* Stage::$last];

            /// How many there are.
            pub const COUNT: usize = Stage::ALL.len();

            /// Its name for people and programs.
            pub fn name(self) -> &'static str {
                match self {
                    Stage::$first => $first_name,
                    $(Stage::$stage => stringify!($module),)*
                    Stage::$last => $last_name,
                }
            }

            /// What it does, for people.
            pub fn description(self) -> &'static str {
                match self {
                    Stage::$first => concat!($($first_doc),+),
                    $(Stage::$stage => concat!($($doc),+),)*
                    Stage::$last => concat!($($last_doc),+),
                }
                .trim_ascii()
            }
        }

        /// The reasons of all, in order.
        pub(crate) const REASONS: &[&[Named]] =
            &[port::RX_REASONS, $(<$module::$stage as Process>::REASONS,)* port::TX_REASONS];

        /// Why all leave frames to the control thread, in order.
        pub(crate) const PUNTS: &[&[Named]] = &[$(<$module::$stage as Process>::PUNTS,)*];

        /// The counters of all, in order.
        pub(crate) const COUNTS: &[&[Named]] = &[$(<$module::$stage as Process>::COUNTS,)*];

        /// What the stages that can be configured go by, of one port.
        #[derive(Clone, Default)]
        pub(crate) struct StageTables {
            $($(pub $module: $table,)?)*
        }

        impl StageTables {
            /// As `config` says. What they have counted goes on from `before`, those that the port had until now.
            pub(crate) fn new(config: &dray_config::Port, before: Option<&StageTables>) -> StageTables {
                StageTables {
                    $($($module: <$table>::new(config, before.map(|before| &before.$module)),)?)*
                }
            }
        }

        /// What a worker keeps for each stage.
        #[derive(Default)]
        pub(crate) struct Stages {
            $($module: $module::$stage,)*
        }

        impl Stages {
            /// A bit for each stage that a port wants.
            pub(crate) fn wanted(port: &Port) -> u32 {
                const { assert!(Stage::COUNT <= u32::BITS as usize) };
                0 $(| u32::from(<$module::$stage as Process>::wanted(port)) << Stage::$stage as u32)*
            }

            /// Runs those that are wanted.
            #[inline(always)]
            pub(crate) fn run<O: Output>(&mut self, wanted: u32, pass: &mut Pass<O>, clock: &mut StageClock) {
                $(if wanted & 1 << Stage::$stage as u32 != 0 {
                    let frames = self.$module.run(pass);
                    clock.mark(Stage::$stage, frames);
                })*
            }
        }
    };
}
