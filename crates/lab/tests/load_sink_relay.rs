//! Load, sink and relay against each other on loopback: what one counts, the other must have seen.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use portside_lab::address::Address;
use portside_lab::load::{self, ClientClose, LoadPlan};
use portside_lab::relay::Relay;
use portside_lab::sink::{self, CloseMode, Sink, SinkPlan, SinkReport};

fn plan(target: &str) -> LoadPlan {
    LoadPlan {
        target: target.to_owned(),
        connections: Some(500),
        identify: true,
        ..LoadPlan::default()
    }
}

fn sink_with(change: impl FnOnce(&mut SinkPlan)) -> Sink {
    let mut plan = SinkPlan::default();
    change(&mut plan);
    sink::start(&plan).unwrap()
}

/// The sink's counters once every connection has ended.
fn settled(sink: &Sink) -> SinkReport {
    for _ in 0..500 {
        if sink.report().open == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    sink.report()
}

#[test]
fn every_session_is_answered_and_says_quit() {
    let sink = sink_with(|plan| plan.answer = "42".into());
    let report = load::run(LoadPlan {
        queries: vec!["SELECT @@server_id".into(), "SELECT 2".into()],
        repeat: 3,
        ..plan(&sink.addresses()[0])
    })
    .unwrap();
    assert_eq!(
        (report.sessions_ok, report.sessions_failed),
        (500, 0),
        "{report:?}"
    );
    assert_eq!(report.queries_ok, 3000);
    assert_eq!(report.by_server.get("42"), Some(&500));
    assert!(report.p50_us > 0 && report.p50_us <= report.p99_us && report.done);
    let seen = settled(&sink);
    assert_eq!(
        (seen.logins, seen.queries, seen.quits, seen.aborted),
        (500, 3000, 500, 0)
    );
}

#[test]
fn the_relay_changes_nothing_but_the_address() {
    let sink = sink_with(|plan| plan.result_bytes = 3_000_000);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let listen = Address::parse(&port.to_string()).unwrap();
    let relay = Relay::start(&listen, &Address::parse(&sink.addresses()[0]).unwrap()).unwrap();
    let report = load::run(LoadPlan {
        connections: Some(50),
        identify: false,
        ..plan(&port.to_string())
    })
    .unwrap();
    assert_eq!(
        (report.sessions_ok, report.sessions_failed),
        (50, 0),
        "{report:?}"
    );
    assert!(report.received_bytes > 50 * 3_000_000);
    assert_eq!(relay.sessions(), 50);
    assert_eq!(settled(&sink).quits, 50);
}

#[test]
fn a_unix_socket_serves_too() {
    let path = std::env::temp_dir().join(format!("portside-lab-{}.sock", std::process::id()));
    let text = format!("unix:{}", path.display());
    let sink = sink_with(|plan| plan.listen = vec![text.clone()]);
    let report = load::run(plan(&text)).unwrap();
    assert_eq!(
        (report.sessions_ok, report.sessions_failed),
        (500, 0),
        "{report:?}"
    );
    drop(sink);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn clients_that_do_not_say_quit_are_counted_as_aborted() {
    for close in [ClientClose::NoQuit, ClientClose::Reset] {
        let sink = sink_with(|_| ());
        let report = load::run(LoadPlan {
            close,
            ..plan(&sink.addresses()[0])
        })
        .unwrap();
        assert_eq!(report.sessions_ok, 500, "{report:?}");
        let seen = settled(&sink);
        assert_eq!((seen.quits, seen.aborted), (0, 500), "{close:?}");
    }
}

#[test]
fn a_client_that_waits_for_the_servers_fin_gets_it() {
    for close in [CloseMode::First, CloseMode::Reset] {
        let sink = sink_with(|plan| plan.close = close);
        let report = load::run(LoadPlan {
            close: ClientClose::Wait,
            ..plan(&sink.addresses()[0])
        })
        .unwrap();
        assert_eq!(
            (report.sessions_ok, report.sessions_failed),
            (500, 0),
            "{report:?}"
        );
        assert_eq!(report.sessions_open, 0);
    }
}

/// QUIT and FIN together, as libmysql sends them: the FIN is told once, and must not be missed behind the QUIT.
#[test]
fn a_sink_that_waits_for_the_clients_fin_sees_it() {
    let sink = sink_with(|plan| plan.close = CloseMode::Wait);
    let report = load::run(plan(&sink.addresses()[0])).unwrap();
    assert_eq!(report.sessions_ok, 500, "{report:?}");
    let seen = settled(&sink);
    assert_eq!((seen.open, seen.quits, seen.aborted), (0, 500, 0));
}

#[test]
fn refusals_and_silence_are_errors_with_their_number() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let report = load::run(LoadPlan {
        connections: Some(20),
        ..plan(&closed.to_string())
    })
    .unwrap();
    assert_eq!((report.sessions_ok, report.sessions_failed), (0, 20));
    assert_eq!(
        (report.errors[0].kind, report.errors[0].errno),
        ("connect", 111)
    );

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = load::run(LoadPlan {
        connections: Some(5),
        timeout_ms: 200,
        ..plan(&silent.local_addr().unwrap().to_string())
    })
    .unwrap();
    assert_eq!(
        (report.errors[0].kind, report.errors[0].count),
        ("timeout", 5)
    );
}

#[test]
fn an_err_in_place_of_the_greeting_is_reported_with_its_text() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let packet = portside_proto::err::greeting_err(1040, "Too many connections");
        std::io::Write::write_all(&mut stream, &packet).unwrap();
    });
    let report = load::run(LoadPlan {
        connections: Some(1),
        ..plan(&address)
    })
    .unwrap();
    server.join().unwrap();
    let error = &report.errors[0];
    assert_eq!((error.kind, error.errno), ("server", 1040));
    assert!(
        error.text.contains("Too many connections"),
        "{}",
        error.text
    );
}

#[test]
fn a_rate_and_a_time_are_kept() {
    let sink = sink_with(|_| ());
    let report = load::run(LoadPlan {
        connections: None,
        duration_ms: Some(1000),
        rate: Some(200.0),
        ..plan(&sink.addresses()[0])
    })
    .unwrap();
    assert!((190..=201).contains(&report.sessions_ok), "{report:?}");
}

#[test]
fn held_sessions_stay_open_until_the_load_is_stopped() {
    let sink = sink_with(|plan| plan.delay_ms = 20);
    let mut load = load::start(LoadPlan {
        connections: Some(100),
        concurrency: 100,
        hold_ms: 60_000,
        ..plan(&sink.addresses()[0])
    })
    .unwrap();
    for _ in 0..300 {
        if load.report().sessions_ok == 100 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sink.report().open, 100);
    assert!(load.report().p50_us >= 20_000, "the sink's delay");
    load.stop();
    load.wait();
    assert_eq!(settled(&sink).quits, 100);
}
