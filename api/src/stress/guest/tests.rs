//! The guest's part is played at the other end of a socket, by real shells where that is possible.

use super::*;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

mod kernel_log;

/// Far more than anything here needs.
const SOON: Duration = Duration::from_secs(30);
/// Long enough for an answer that is there.
const BRIEF: Duration = Duration::from_millis(200);

fn serial() -> (Guest, OwnedReadHalf, OwnedWriteHalf) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = theirs.into_split();
    (
        Guest::new(Way::Serial(Serial::new(ours)), None),
        reader,
        writer,
    )
}

/// A guest whose port is a real shell's input and output.
fn shell(program: &str, arguments: &[&str]) -> (Guest, Child) {
    let (guest, mut reader, mut writer) = serial();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    tokio::spawn(async move { tokio::io::copy(&mut reader, &mut stdin).await });
    tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut writer).await });
    (guest, child)
}

/// What the loop of our test guest's first process does.
const INIT: &str = r#"while read -r word command; do
    printf '\036%s begin\n' "$word"
    (eval "$command") </dev/null 2>&1
    printf '\036%s end %s\n' "$word" "$?"
done"#;

/// What a guest is asked often is left in it, and taken away again.
async fn is_looked_at(guest: &mut Guest) {
    guest.begin(SOON).await.unwrap();
    let Way::Serial(serial) = &guest.way else {
        panic!("{guest:?}")
    };
    let file = PathBuf::from(serial.left().expect("a place for commands"));
    assert!(file.exists());
    let short = guest.look().await.unwrap();
    assert!(short.online.contains(&0), "{short:?}");
    let long = guest.run(cpus::LOOK, SOON).await.unwrap();
    assert_eq!(
        Looked::parse(&long.text).map(|looked| looked.cpus),
        Some(short)
    );
    let count = guest.run_often(Often::Count).await.unwrap();
    assert!(parse_count(count.text.lines().next(), &count).is_ok());
    // Somebody has cleared it away.
    std::fs::remove_file(&file).unwrap();
    guest.look().await.unwrap();
    guest.leave_commands().await.unwrap();
    let Way::Serial(serial) = &guest.way else {
        panic!("{guest:?}")
    };
    let file = PathBuf::from(serial.left().expect("a place for commands"));
    guest.tidy_up().await.unwrap();
    assert!(!file.exists());
    guest.look().await.unwrap();
}

#[test]
fn only_a_place_of_ours_is_taken_for_one() {
    let said = |text: &str| Output {
        text: text.to_owned(),
        status: 0,
    };
    let left = |text| stream::left("w1", &said(text));
    let ours = Some("/run/stress-w1".to_owned());
    assert_eq!(left("/run/stress-w1"), ours);
    assert_eq!(left("[  OK  ] Reached x\n/run/stress-w1\nbye"), ours);
    for wrong in [
        "",
        "/tmp/evil",
        "/run/stress-w1;x",
        "/run/stress-w2",
        "x /run/stress-w1",
    ] {
        assert_eq!(left(wrong), None, "{wrong}");
    }
}

async fn runs_commands(mut guest: Guest) {
    guest.await_up(SOON).await.unwrap();
    let output = guest
        .run("echo a; echo b >&2; cat; exit 3", SOON)
        .await
        .unwrap();
    assert_eq!((&*output.text, output.status), ("a\nb", 3));
    let output = guest
        .run("cd /; x=1; false || echo \"it's $((1 + 1))\"", SOON)
        .await
        .unwrap();
    assert_eq!((&*output.text, output.status), ("it's 2", 0));
    // A command that leaves something behind ends all the same.
    let output = guest
        .run("sleep 1000 >/dev/null 2>&1 & kill $!", SOON)
        .await
        .unwrap();
    assert_eq!(output.status, 0, "{output:?}");
    let long = guest
        .run(
            "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done",
            SOON,
        )
        .await;
    assert_eq!(long.unwrap().text.lines().count(), 5000);
    is_looked_at(&mut guest).await;
}

#[tokio::test]
async fn a_shell_without_a_terminal_runs_commands() {
    let (guest, _child) = shell("sh", &[]);
    runs_commands(guest).await;
}

#[tokio::test]
async fn the_first_process_of_our_test_guest_runs_commands() {
    let (guest, _child) = shell("sh", &["-c", INIT]);
    runs_commands(guest).await;
}

#[tokio::test]
async fn a_shell_on_a_terminal_with_echo_and_prompt_runs_commands() {
    // It asks for no terminal of ours, and gives the shell one.
    let (guest, _child) = shell("script", &["-qfc", "sh -i", "/dev/null"]);
    runs_commands(guest).await;
}

#[tokio::test]
async fn a_shell_that_edits_lines_runs_commands() {
    let (guest, _child) = shell("script", &["-qfc", "bash --norc -i", "/dev/null"]);
    runs_commands(guest).await;
}

#[tokio::test]
async fn a_real_shell_says_which_cpus_there_are() {
    let (mut guest, _child) = shell("sh", &[]);
    guest.begin(SOON).await.unwrap();
    let cpus = guest.look().await.unwrap();
    assert!(cpus.online.contains(&0), "{cpus:?}");
    assert!(cpus.present.is_superset(&cpus.online), "{cpus:?}");
}

/// A guest of which a test says line by line what it does.
struct Fake {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Fake {
    fn new() -> (Guest, Self) {
        let (guest, reader, writer) = serial();
        let reader = BufReader::new(reader);
        (guest, Self { reader, writer })
    }

    /// The word of the next line.
    async fn asked(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        let (_, rest) = line
            .split_once(r"begin\n' ")
            .unwrap_or_else(|| panic!("{line:?}"));
        rest.split_once(';').unwrap().0.to_owned()
    }

    async fn say(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self, word: &str, text: &str) {
        self.say(&format!(
            "\u{1e}{word} begin\r\n{text}\r\n\u{1e}{word} end 0\r\n"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next_ones() {
    let (mut guest, mut fake) = Fake::new();
    let late = guest.run("one", BRIEF).await.unwrap_err();
    assert_eq!(late, GuestError::Silent("one".to_owned(), BRIEF));
    let first = fake.asked().await;
    let (second, ()) = tokio::join!(guest.run("two", SOON), async {
        let second = fake.asked().await;
        fake.answer(&first, "1").await;
        fake.answer(&second, "2").await;
    });
    assert_eq!(second.unwrap().text, "2");
}

#[tokio::test]
async fn a_kernel_that_speaks_in_the_midst_does_no_harm() {
    let (mut guest, mut fake) = Fake::new();
    let kernel = "[   12.345678] smpboot: CPU 3 didn't die...\r\n";
    let (output, ()) = tokio::join!(guest.run("x", SOON), async {
        let word = fake.asked().await;
        let (begin, end) = word.split_at(4);
        fake.say(&format!(
            "\u{1e}{begin}{kernel}{end} begin\r\n0-{kernel}3\r\n"
        ))
        .await;
        fake.say(&format!("\u{1e}{word} en[   13.0")).await;
        fake.say(&format!("00001] fine\r\nd {kernel}0\r\n")).await;
    });
    assert_eq!(
        output.unwrap(),
        Output {
            text: "0-3".to_owned(),
            status: 0
        }
    );
    let warnings = guest.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("didn't die"), "{warnings:?}");
    assert_eq!(guest.warnings(), Vec::<String>::new());
    assert!(guest.console().contains("fine"));
}

#[tokio::test]
async fn a_guest_that_boots_is_asked_again() {
    let (mut guest, mut fake) = Fake::new();
    let (up, ()) = tokio::join!(guest.await_up(SOON), async {
        fake.asked().await;
        fake.say("[    0.000000] Linux version 6.1\r\nready\r\n")
            .await;
        // The first was swallowed; the second is answered when a third was sent.
        let second = fake.asked().await;
        fake.say("more").await;
        fake.asked().await;
        fake.answer(&second, "").await;
        let word = fake.asked().await;
        fake.answer(&word, "no place").await;
    });
    assert_eq!(up, Ok(()));
}

#[tokio::test]
async fn a_guest_that_waits_for_a_login_is_told_apart() {
    let (mut guest, mut fake) = Fake::new();
    fake.say("\r\nvm login: ").await;
    // Nobody will log in, so that it is not waited for.
    let error = guest.await_up(SOON * 100).await.unwrap_err();
    assert_eq!(error, GuestError::Login);
}

#[tokio::test]
async fn a_port_that_is_closed_is_found_at_once() {
    let (mut guest, fake) = Fake::new();
    drop(fake);
    let error = guest.run("x", SOON).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed(_)), "{error}");
}

#[tokio::test]
async fn a_guest_that_takes_nothing_costs_the_patience_only() {
    let (mut guest, mut fake) = Fake::new();
    let long = "x".repeat(4 << 20);
    let error = guest.run(&long, BRIEF).await.unwrap_err();
    assert!(matches!(error, GuestError::Silent(..)), "{error}");
    // The next line begins anew.
    let read = async {
        let mut all = Vec::new();
        fake.reader.read_until(b'\n', &mut all).await.unwrap();
        let word = fake.asked().await;
        fake.answer(&word, "ok").await;
    };
    let (output, ()) = tokio::join!(guest.run("y", SOON), read);
    assert_eq!(output.unwrap().text, "ok");
}

#[tokio::test]
async fn an_incident_is_waited_for_to_its_end() {
    let (mut guest, mut fake) = Fake::new();
    let (cpus, ()) = tokio::join!(guest.look(), async {
        let word = fake.asked().await;
        fake.say("[    1.000000] BUG: unable to handle page fault\r\n")
            .await;
        fake.answer(&word, "=0-1\r\n=0\r\n=0\r\n0").await;
        fake.say("[    1.000001] RIP: 0010:x\r\n[    1.000002] ---[ end trace 0 ]---\r\n")
            .await;
    });
    assert_eq!(Vec::from_iter(cpus.unwrap().present), [0, 1]);
    let warnings = guest.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].lines().count(), 3, "{warnings:?}");
}

#[tokio::test]
async fn a_guest_that_says_nonsense_is_named() {
    let (mut guest, mut fake) = Fake::new();
    let (cpus, ()) = tokio::join!(guest.look(), async {
        let word = fake.asked().await;
        fake.answer(&word, "cat: not found").await;
    });
    let error = cpus.unwrap_err().to_string();
    assert!(error.contains("cat: not found"), "{error}");
}

#[tokio::test]
async fn what_was_complained_of_before_is_forgotten() {
    let (mut guest, mut fake) = Fake::new();
    fake.say("[    0.500000] WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1\r\n[    9.000000] up\r\n")
        .await;
    let (begun, ()) = tokio::join!(guest.begin(SOON), async {
        let word = fake.asked().await;
        fake.answer(&word, "").await;
        // It has no place for what it is asked often.
        let word = fake.asked().await;
        fake.answer(&word, "").await;
        let word = fake.asked().await;
        fake.answer(&word, "offline\r\nprofile").await;
    });
    begun.unwrap();
    assert!(guest.offers().offline && guest.offers().profile && !guest.offers().eject);
    assert_eq!(guest.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_bad_input() {
    let channel = Channel {
        serial: Some("/nowhere/serial.sock".into()),
        ..Channel::default()
    };
    let error = Guest::open(&channel).await.unwrap_err();
    assert!(matches!(error, Failure::Input(_)), "{error}");
}

#[tokio::test]
async fn a_socket_that_somebody_else_has_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let channel = Channel {
        serial: Some(path),
        ..Channel::default()
    };
    let turn_away = async {
        let (mut client, _) = listener.accept().await.unwrap();
        // As the VMM does it with a second client.
        client.shutdown().await.unwrap();
        let _ = client.read(&mut [0; 1]).await;
    };
    let (opened, ()) = tokio::join!(Guest::open(&channel), turn_away);
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("no other client"), "{error}");
}

#[tokio::test]
async fn a_console_file_alone_shows_complaints() {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[    1.000000] BUG: old\n").unwrap();
    let channel = Channel {
        console: Some(file.path().to_owned()),
        ..Channel::default()
    };
    let mut guest = Guest::open(&channel).await.unwrap();
    assert!(!guest.answers());
    assert_eq!(guest.look().await, Err(GuestError::NoChannel));
    file.write_all(b"[    2.000000] BUG: new\n").unwrap();
    assert_eq!(guest.warnings(), ["[    2.000000] BUG: new"]);
    // What still comes of it is no other one.
    file.write_all(b"[    2.000001] Call Trace:\n").unwrap();
    assert_eq!(guest.warnings(), Vec::<String>::new());
    assert!(guest.console().contains("BUG: new"));
}

#[tokio::test]
async fn a_command_reaches_the_guest_as_well() {
    let channel = Channel {
        command: Some("sh -c".to_owned()),
        ..Channel::default()
    };
    let mut guest = Guest::open(&channel).await.unwrap();
    assert!(guest.look().await.unwrap().online.contains(&0));
    assert_eq!(guest.run("exit 5", SOON).await.unwrap().status, 5);
}
