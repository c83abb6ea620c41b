//! How the kernel's log is read.

use super::*;

/// A guest with one CPU whose kernel's taint is this.
fn one_cpu(taint: u32) -> String {
    format!("=0\r\n=0\r\n={taint}\r\n0")
}

/// Has the guest looked at, which answers these, one after the other; returns what it complains of.
async fn look(guest: &mut Guest, fake: &mut Fake, answers: &[&str]) -> Vec<String> {
    let (cpus, ()) = tokio::join!(guest.look(), async {
        for answer in answers {
            let word = fake.asked().await;
            fake.answer(&word, answer).await;
        }
    });
    cpus.unwrap();
    guest.warnings()
}

#[tokio::test]
async fn the_kernels_log_is_read_when_it_has_more_complaints() {
    let (mut guest, mut fake) = Fake::new();
    guest.offers.log = true;
    let warning =
        "<    7.000000] WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1\r\n<    7.000001] Call Trace:";
    let first = format!("1\r\n{warning}");
    let found = look(&mut guest, &mut fake, &[&one_cpu(0), "1", &first]).await;
    assert_eq!(found.len(), 1);
    // It was looked through just now, and nothing taints the kernel: it is not asked for it.
    let none = Vec::<String>::new();
    assert_eq!(look(&mut guest, &mut fake, &[&one_cpu(0)]).await, none);
    // As many as before: it is not read again.
    let tainted = look(&mut guest, &mut fake, &[&one_cpu(512), "1"]).await;
    assert_eq!(tainted, none);
    // It has wrapped around, in the midst of what was read: only what came since is new.
    guest.log.complaints = 5;
    guest.expect_complaints();
    let log = "2\r\n<    7.000001] Call Trace:\r\n<    9.000000] BUG: soft lockup - CPU";
    let found = look(&mut guest, &mut fake, &[&one_cpu(512), "2", log]).await;
    assert_eq!(found, ["[    9.000000] BUG: soft lockup - CPU"]);
}

/// By a real shell, of a log that is longer than what is fetched as it is.
#[tokio::test]
async fn the_kernels_log_is_read_from_the_first_new_complaint_on() {
    let (mut guest, _child) = shell("sh", &[]);
    guest.offers.log = true;
    guest.run("true", SOON).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let mut text = String::from("[    0.000000] Linux version 6.1\n");
    // Close to each other, so that the second is taken for a part of the first as long as that one is there.
    text += "[    0.200000] unchecked MSR access error: RDMSR from 0x1\n";
    text += "[    0.304904] WARNING: CPU: 0 PID: 0 at a.c:606 b+0x1/0x2\n";
    std::fs::write(&file, &text).unwrap();
    std::fs::write(
        folder.path().join("dmesg"),
        format!("#!/bin/sh\nexec cat {}\n", file.display()),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("dmesg"), mode).unwrap();
    let in_folder = |command| format!("PATH={}:$PATH; {command}", folder.path().display());
    let read = |known: u64| in_folder(log::from(known));
    let heads = guest.run(&in_folder(log::heads()), SOON).await.unwrap();
    let mut heads = heads.text.lines();
    assert_eq!(heads.next(), Some("2"));
    let heads: Vec<String> = heads.map(log::as_written).collect();
    assert_eq!(heads, Vec::from_iter(text.lines().skip(1)));
    let all = guest.run(&read(0), SOON).await.unwrap().text;
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "{all}");
    assert_eq!(lines[0], "2");
    assert!(lines[1].starts_with("<    0.200000] unchecked"), "{all}");
    assert_eq!(guest.run(&read(2), SOON).await.unwrap().text, "2");
    for second in 1..1000 {
        text += &format!("[{second:5}.000000] CPU1 has been hot-added\n");
        if second % 100 == 0 {
            text += &format!("[{second:5}.500000] BUG: soft lockup - CPU#{second}\n");
        }
    }
    std::fs::write(&file, &text).unwrap();
    let new = guest.run(&read(2), SOON).await.unwrap().text;
    let lines: Vec<&str> = new.lines().collect();
    assert_eq!(lines[0], "11");
    assert!(lines[1].starts_with("<  100.500000] BUG"), "{new}");
    // As they are, and then the heads of the other eight.
    let fetched = usize::try_from(log::FETCHED).unwrap();
    assert_eq!(lines.len(), 1 + fetched + 8, "{new}");
    assert!(lines[lines.len() - 1].starts_with("<  900.500000] BUG"));
}

/// Of a log that has nothing but what it has at each boot, only the heads are read.
#[tokio::test]
async fn what_a_kernel_complains_of_at_each_boot_is_no_news() {
    let (mut guest, mut fake) = Fake::new();
    let (usual, new) = (
        "<    0.500000] WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1",
        "<    5.000000] BUG: new",
    );
    let (begun, ()) = tokio::join!(guest.begin(SOON), async {
        let heads = format!("1\r\n{usual}");
        for answer in ["", "no place", "dmesg", &heads] {
            let word = fake.asked().await;
            fake.answer(&word, answer).await;
        }
    });
    begun.unwrap();
    assert_eq!(guest.log.complaints, 1);
    let again = usual.replace("0.5", "0.6");
    let heads = format!("1\r\n{again}");
    let (up, ()) = tokio::join!(guest.await_up(SOON), async {
        for answer in ["", "no place", &heads] {
            let word = fake.asked().await;
            fake.answer(&word, answer).await;
        }
    });
    up.unwrap();
    assert_eq!(guest.warnings(), Vec::<String>::new());
    assert_eq!(guest.log.complaints, 1);
    let both = format!("{again}\r\n{new}");
    let both = format!("2\r\n{both}");
    let log = format!("{both}\r\n<    5.000001] Call Trace:");
    let (up, ()) = tokio::join!(guest.await_up(SOON), async {
        for answer in ["", "no place", &both, &log] {
            let word = fake.asked().await;
            fake.answer(&word, answer).await;
        }
    });
    up.unwrap();
    let news = ["[    5.000000] BUG: new\n[    5.000001] Call Trace:"];
    assert_eq!(guest.warnings(), news);
    assert_eq!(guest.log.complaints, 2);
}
