//! The suite that every backend passes, over each path.

mod setup;

use nixl_ipc::{CMA, IpcBackend, LOCAL, SHM};
use setup::config;

nixl_conformance::suite!(local, IpcBackend::new(config("ipc", true)), LOCAL);
nixl_conformance::suite!(shm, IpcBackend::new(config("ipc", false)), SHM);
nixl_conformance::suite!(cma, IpcBackend::new(config("ipc", false)), CMA);
