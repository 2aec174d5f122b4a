//! The Python door: everything Python sees of the engine, and nothing else. The surface is `_core.pyi`.
//!
//! Calls that wait or lock release the interpreter; no worker thread ever takes it.

mod lab;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portside_engine::{Criteria, EngineError as Refusal};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    portside._core,
    EngineError,
    PyException,
    "The engine refused; args: sentence, errno or 0, listen address or ''."
);

fn refused(error: Refusal) -> PyErr {
    EngineError::new_err((error.message, error.errno, error.address))
}

/// A Python number of seconds as a duration; negative, NaN and absurd values are the caller's mistake.
fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|e| PyValueError::new_err(format!("{value} s: {e}")))
}

/// One running data plane.
#[pyclass(module = "portside._core", frozen)]
struct Engine(portside_engine::Engine);

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, snapshot: &str) -> PyResult<Self> {
        py.detach(|| portside_engine::Engine::new(snapshot))
            .map(Self)
            .map_err(refused)
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.start()).map_err(refused)
    }

    fn apply(&self, py: Python<'_>, snapshot: &str) -> PyResult<u64> {
        py.detach(|| self.0.apply(snapshot)).map_err(refused)
    }

    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.drain()).map_err(refused)
    }

    fn stop(&self, py: Python<'_>, timeout_s: f64) -> PyResult<usize> {
        let timeout = seconds(timeout_s)?;
        Ok(py.detach(|| self.0.stop(timeout)))
    }

    fn stats(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.stats())
    }

    fn ports(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.ports())
    }

    #[pyo3(signature = (server, destination, avoid=None))]
    fn lease(
        &self,
        py: Python<'_>,
        server: &str,
        destination: &str,
        avoid: Option<Vec<IpAddr>>,
    ) -> PyResult<Option<PortLease>> {
        let avoid = avoid.unwrap_or_default();
        let lent = py.detach(|| self.0.lease(server, destination, &avoid));
        Ok(lent.map_err(refused)?.map(|lease| PortLease(lease.into())))
    }

    fn seed_ports(&self, py: Python<'_>, time_wait: &str) -> PyResult<usize> {
        py.detach(|| self.0.seed_ports(time_wait)).map_err(refused)
    }

    fn sessions(&self, py: Python<'_>, limit: usize) -> String {
        py.detach(|| self.0.sessions(limit))
    }

    fn events(&self, py: Python<'_>, timeout_s: f64) -> PyResult<String> {
        let timeout = seconds(timeout_s)?;
        Ok(py.detach(|| self.0.events(timeout)))
    }

    #[pyo3(signature = (*, session=None, server=None, service=None, at_boundary=false))]
    fn close_sessions(
        &self,
        py: Python<'_>,
        session: Option<u64>,
        server: Option<String>,
        service: Option<String>,
        at_boundary: bool,
    ) -> usize {
        let criteria = Criteria {
            session,
            server,
            service,
            at_boundary,
        };
        py.detach(|| self.0.close_sessions(&criteria))
    }

    fn reopen_log(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.reopen_log()).map_err(refused)
    }
}

/// A source port lent to a check.
#[pyclass(module = "portside._core", frozen)]
struct PortLease(Mutex<portside_engine::CheckLease>);

impl PortLease {
    fn lock(&self) -> MutexGuard<'_, portside_engine::CheckLease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PortLease {
    #[getter]
    fn source(&self) -> String {
        self.lock()
            .source()
            .map_or_else(String::new, |ip| ip.to_string())
    }

    #[getter]
    fn port(&self) -> u16 {
        self.lock().port().unwrap_or(0)
    }

    #[getter]
    fn resets_are_lost(&self) -> bool {
        self.lock().resets_are_lost()
    }

    fn give_back(&self, how: &str) -> PyResult<()> {
        self.lock().give_back(how).map_err(refused)
    }
}

/// The version of the package and of the data plane.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Target, profile, and the kernel features found.
#[pyfunction]
fn build_info() -> BTreeMap<&'static str, String> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let range = if portside_engine::has_local_port_range() {
        "yes".to_owned()
    } else {
        "no: needs Linux 6.3".to_owned()
    };
    BTreeMap::from([
        ("version", version().to_owned()),
        ("target", std::env::consts::ARCH.to_owned()),
        ("profile", profile.to_owned()),
        ("IP_LOCAL_PORT_RANGE", range),
    ])
}

/// Bytes that the ledger of one destination takes once every tuple has been used.
#[pyfunction]
fn ledger_bytes(sources: usize, lo: u16, hi: u16, workers: usize) -> PyResult<u64> {
    let ports = portside_engine::PortRange::new(lo, hi)
        .ok_or_else(|| PyValueError::new_err(format!("{lo}-{hi} is no range of ports")))?;
    Ok(portside_engine::ledger_bytes(sources, ports, workers))
}

/// What stands in the certificates of a PEM text, as JSON.
#[pyfunction]
#[pyo3(signature = (certificate, key=None))]
fn read_certificate(certificate: &str, key: Option<&str>) -> PyResult<String> {
    let facts =
        portside_engine::read_certificate(certificate, key).map_err(PyValueError::new_err)?;
    serde_json::to_string(&facts).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// Why a server that shows these certificates (DER) is not to be trusted; None: it is.
#[pyfunction]
fn judge_certificate(tls: &str, chain: Vec<Vec<u8>>) -> Option<String> {
    portside_engine::judge_certificate(tls, chain).err()
}

/// One login as pooled connections make it, on a duplicate of a connected socket; the outcome as JSON.
#[pyfunction]
fn try_login(py: Python<'_>, fd: i32, spec: &str, limit_s: f64) -> PyResult<String> {
    let limit = seconds(limit_s)?;
    py.detach(|| portside_engine::try_login(fd, spec, limit))
        .map_err(refused)
}

/// Every termination reason and close outcome, as JSON.
#[pyfunction]
fn explain_codes() -> PyResult<String> {
    serde_json::to_string(&portside_engine::codes())
        .map_err(|e| PyValueError::new_err(e.to_string()))
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Engine>()?;
    m.add_class::<PortLease>()?;
    m.add_class::<lab::Line>()?;
    m.add_class::<lab::Load>()?;
    m.add_class::<lab::Sink>()?;
    m.add("EngineError", m.py().get_type::<EngineError>())?;
    m.add("LEDGER_BUDGET_BYTES", portside_engine::MEMORY_BYTES)?;
    m.add_function(wrap_pyfunction!(ledger_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(read_certificate, m)?)?;
    m.add_function(wrap_pyfunction!(judge_certificate, m)?)?;
    m.add_function(wrap_pyfunction!(try_login, m)?)?;
    m.add_function(wrap_pyfunction!(version, m)?)?;
    m.add_function(wrap_pyfunction!(build_info, m)?)?;
    m.add_function(wrap_pyfunction!(explain_codes, m)?)?;
    Ok(())
}
