//! Generates the bindings from the DPDK that pkg-config finds, and compiles the shim.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The libraries that the functions below live in. Drivers are not among them: EAL loads those as plugins
/// from DPDK's own folder, so that the daemon starts on a machine that has only the drivers it needs.
const LIBS: &[&str] = &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool"];

/// The functions that are used, besides the shim's own `dray_*`.
const FUNCTIONS: &[&str] = &[
    "rte_dev_event_callback_register",
    "rte_devargs_parse",
    "rte_devargs_reset",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_eal_init",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_info_get",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_iterator_cleanup",
    "rte_eth_iterator_init",
    "rte_eth_iterator_next",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_openlog_stream",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
];

/// Constants, besides the shim's own `DRAY_*`.
const CONSTANTS: &[&str] =
    &["RTE_EAL_PMD_PATH", "RTE_MAX_ETHPORTS", "RTE_PKTMBUF_HEADROOM", "RTE_ETH_MQ_RX_RSS", "RTE_DEV_EVENT_REMOVE"];

fn main() {
    println!("cargo:rerun-if-changed=src/shim.h");
    println!("cargo:rerun-if-changed=src/shim.c");
    for var in ["PKG_CONFIG", "PKG_CONFIG_PATH", "LIBCLANG_PATH", "CLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={var}");
    }
    let cflags = pkg_config("--cflags");
    for flag in pkg_config("--libs-only-L") {
        println!("cargo:rustc-link-search=native={}", flag.trim_start_matches("-L"));
    }

    // DPDK's flags name the instruction set that its inline functions need.
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").warnings(true);
    for flag in &cflags {
        shim.flag(flag);
    }
    shim.compile("dray_dpdk_shim");
    // After the shim, which calls into them.
    for lib in LIBS {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }

    pin_clang();
    let mut bindings = bindgen::Builder::default()
        .header("src/shim.h")
        .clang_args(&cflags)
        .allowlist_function("dray_.*")
        .allowlist_var("DRAY_.*")
        // Only ever pointed to; its fields are read by the offsets in shim.h.
        .opaque_type("rte_mbuf|rte_mempool|_IO_FILE")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false);
    for name in FUNCTIONS {
        bindings = bindings.allowlist_function(name);
    }
    for name in CONSTANTS {
        bindings = bindings.allowlist_var(name);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("bindings.rs");
    bindings.generate().expect("bindgen reads DPDK's headers").write_to_file(out).expect("OUT_DIR is writable");
}

/// What pkg-config says about libdpdk.
fn pkg_config(what: &str) -> Vec<String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&tool).args([what, "libdpdk"]).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        Ok(output) => panic!(
            "\nDPDK was not found: install it with\n    apt install libdpdk-dev\nor point PKG_CONFIG_PATH to the folder \
             of libdpdk.pc.\n{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("\n{tool}: {error}: install it with\n    apt install pkg-config libdpdk-dev\n"),
    }
}

/// Has bindgen take libclang and its headers from one and the same version: with libclang 19 and the headers of
/// clang 14, both of which a Debian machine may have, `__m128i` is an error.
fn pin_clang() {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?, entry.path())))
        .collect();
    versions.sort();
    let Some((_, llvm)) = versions.iter().rev().find(|(_, llvm)| is_pair(llvm)) else {
        panic!(
            "\nno /usr/lib/llvm-*/ has both bin/clang and lib/libclang: install them with\n    apt install clang \
             libclang-dev\nor set LIBCLANG_PATH (the folder) and CLANG_PATH (the program) to a pair of the same version.\n"
        );
    };
    // SAFETY: a build script has no other thread yet.
    unsafe {
        env::set_var("LIBCLANG_PATH", llvm.join("lib"));
        env::set_var("CLANG_PATH", llvm.join("bin/clang"));
    }
}

/// Whether this LLVM folder has both the program, which brings the headers, and the library.
fn is_pair(llvm: &Path) -> bool {
    let is_libclang = |name: &str| {
        name.strip_prefix("libclang").is_some_and(|rest| {
            rest.starts_with(".so") || (rest.contains(".so") && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    llvm.join("bin/clang").exists()
        && fs::read_dir(llvm.join("lib"))
            .is_ok_and(|lib| lib.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_libclang)))
}
