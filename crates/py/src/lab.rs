//! Load, sink and line for Python: plans go in and reports come out as JSON (crates/lab has the shapes).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use portside_lab::line::{self, DropRule, LinePlan};
use portside_lab::load::{self, LoadPlan};
use portside_lab::sink::{self, SinkPlan};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

fn json<T: serde::Serialize>(value: &T) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyValueError::new_err(e.to_string()))
}

fn read<'a, T: serde::Deserialize<'a>>(text: &'a str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// PHP-like clients on one thread; stops when dropped.
#[pyclass(module = "portside._core", frozen)]
pub struct Load(Mutex<load::Load>);

impl Load {
    fn with<T>(&self, act: impl FnOnce(&mut load::Load) -> T) -> T {
        // Poisoned only by a panic that was printed; the figures are still readable.
        act(&mut self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[pymethods]
impl Load {
    #[new]
    fn new(plan: &str) -> PyResult<Self> {
        let plan: LoadPlan = read(plan)?;
        let load = load::start(plan).map_err(PyErr::from)?;
        Ok(Self(Mutex::new(load)))
    }

    fn report(&self, py: Python<'_>) -> PyResult<String> {
        json(&py.detach(|| self.with(|load| load.report())))
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.with(|load| load.stop()));
    }

    /// Polls, so that the caller's signals are seen and `stop` from another thread finds the lock free.
    fn wait(&self, py: Python<'_>, timeout_s: f64) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout_s)
            .map_err(|e| PyValueError::new_err(format!("{timeout_s} s: {e}")))?;
        let until = Instant::now() + timeout;
        loop {
            if py.detach(|| self.with(|load| load.report().done)) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            py.check_signals()?;
            py.detach(|| std::thread::sleep(Duration::from_millis(20)));
        }
    }
}

/// A fast MySQL-speaking server on one thread; ends when dropped.
#[pyclass(module = "portside._core", frozen)]
pub struct Sink(sink::Sink);

#[pymethods]
impl Sink {
    #[new]
    fn new(plan: &str) -> PyResult<Self> {
        let plan: SinkPlan = read(plan)?;
        sink::start(&plan).map(Self).map_err(PyErr::from)
    }

    fn addresses(&self) -> Vec<String> {
        self.0.addresses().to_vec()
    }

    fn report(&self) -> PyResult<String> {
        json(&self.0.report())
    }
}

/// A path with a delay between two TUN devices; ends when dropped.
#[pyclass(module = "portside._core", frozen)]
pub struct Line(line::Line);

#[pymethods]
impl Line {
    #[new]
    fn new(device_a: i32, device_b: i32, plan: &str) -> PyResult<Self> {
        let plan: LinePlan = read(plan)?;
        let line = line::start(device_a, device_b, &plan);
        line.map(Self).map_err(PyErr::from)
    }

    fn report(&self) -> PyResult<String> {
        json(&self.0.report())
    }

    fn drop_also(&self, rule: &str) -> PyResult<()> {
        let rule: DropRule = read(rule)?;
        self.0.drop_also(rule);
        Ok(())
    }
}
