//! QEMU's machine protocol: commands, their answers, and events.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::SOON;

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// The begin of a line whose rest has not come.
    line: Vec<u8>,
    events: VecDeque<Event>,
}

/// What QEMU says of its own accord.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which kind of event.
    pub name: String,
    /// More about it.
    pub data: Value,
    /// When it was read.
    pub at: Instant,
}

/// A CPU that can be plugged, as QEMU wants it described when that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pluggable {
    driver: String,
    properties: Value,
}

impl Qmp {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("QEMU does not listen at {}", socket.display()))?;
        stream.set_write_timeout(Some(SOON))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
            events: VecDeque::new(),
        };
        let greeting = qmp.read(Instant::now() + SOON)?;
        ensure!(
            greeting.get("QMP").is_some(),
            "QEMU's greeting is {greeting}"
        );
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed, and returns what it gave.
    ///
    /// # Errors
    /// QEMU refuses it, or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        let end = Instant::now() + SOON;
        loop {
            let mut message = self
                .read(end)
                .with_context(|| format!("no answer to {command}"))?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command} with {arguments}: {error}");
            }
            self.keep(message);
        }
    }

    /// The next event of a kind, from those that came already or are to come. Those before it are dropped.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_for(&mut self, name: &str, deadline: Duration) -> Result<Event> {
        let end = Instant::now() + deadline;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.name == name {
                    return Ok(event);
                }
            }
            let message = self
                .read(end)
                .with_context(|| format!("waited {deadline:?} for QEMU's {name}"))?;
            self.keep(message);
        }
    }

    /// The CPUs that can be plugged now, the lowest first.
    ///
    /// # Errors
    /// QEMU does not say, or not in this shape.
    pub fn pluggable(&mut self) -> Result<Vec<Pluggable>> {
        pluggable(&self.execute("query-hotpluggable-cpus", &json!({}))?)
    }

    /// Plugs a CPU under a name of the caller's. The guest hears of it later.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn plug(&mut self, cpu: &Pluggable, name: &str) -> Result<()> {
        let mut arguments = cpu.properties.clone();
        arguments["driver"] = json!(cpu.driver);
        arguments["id"] = json!(name);
        self.execute("device_add", &arguments).map(drop)
    }

    /// Asks for CPUs back, and returns when it was read that the last of them is gone.
    ///
    /// # Errors
    /// QEMU refuses, or the guest does not let go of one in time.
    pub fn unplug(&mut self, names: &[String], deadline: Duration) -> Result<Instant> {
        let end = Instant::now() + deadline;
        let mut last = Instant::now();
        for name in names {
            self.execute("device_del", &json!({ "id": name }))?;
        }
        let mut left: Vec<&String> = names.iter().collect();
        while !left.is_empty() {
            let event = self.wait_for(
                "DEVICE_DELETED",
                end.saturating_duration_since(Instant::now()),
            )?;
            // What has no name is a part of what has one.
            left.retain(|name| event.data["device"] != **name);
            last = event.at;
        }
        Ok(last)
    }

    fn keep(&mut self, message: Value) {
        if let Some(name) = message["event"].as_str() {
            self.events.push_back(Event {
                name: name.to_owned(),
                data: message["data"].clone(),
                at: Instant::now(),
            });
        }
    }

    /// The next message; each is a line.
    fn read(&mut self, end: Instant) -> Result<Value> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "QEMU says nothing");
            self.stream.get_ref().set_read_timeout(Some(left))?;
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.line);
                    return serde_json::from_slice(&line).with_context(|| {
                        format!("QEMU said {:?}", String::from_utf8_lossy(&line))
                    });
                }
                Ok(_) => bail!("QEMU has closed the connection"),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Those of the answer to `query-hotpluggable-cpus` that are not there yet; QEMU gives the lowest last.
fn pluggable(answer: &Value) -> Result<Vec<Pluggable>> {
    let cpus = answer.as_array().context("QEMU gave no list of CPUs")?;
    let free = cpus
        .iter()
        .rev()
        .filter(|cpu| cpu.get("qom-path").is_none());
    free.map(|cpu| {
        Ok(Pluggable {
            driver: cpu["type"]
                .as_str()
                .context("a CPU has no type")?
                .to_owned(),
            properties: cpu["props"].clone(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn events_are_kept_apart_from_answers() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let answers: [&[&str]; 3] = [
                &["{\"return\": {}}\r\n"],
                &["{\"return\": {}}\r\n"],
                &[
                    "{\"event\": \"OTHER\"}\r\n{\"return\"",
                    ": {}}\r\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/x\"}}\r\n",
                    "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"d\"}}\r\n",
                    "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"c\"}}\r\n",
                ],
            ];
            for pieces in answers {
                requests.next().unwrap().unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).unwrap();
                }
            }
        });
        let mut qmp = Qmp::connect(&socket).unwrap();
        let names = ["c", "d"].map(str::to_owned);
        let asked = Instant::now();
        assert!(qmp.unplug(&names, SOON).unwrap() >= asked);
        server.join().unwrap();
        assert!(qmp.execute("anything", &json!({})).is_err());
    }

    #[test]
    fn the_lowest_cpu_that_is_not_there_comes_first() {
        let answer = json!([
            {"type": "host", "props": {"core-id": 2}},
            {"type": "host", "props": {"core-id": 1}},
            {"type": "host", "props": {"core-id": 0}, "qom-path": "/machine/0"},
        ]);
        let found = pluggable(&answer).unwrap();
        let ids: Vec<_> = found.iter().map(|cpu| &cpu.properties["core-id"]).collect();
        assert_eq!(ids, [1, 2]);
    }
}
