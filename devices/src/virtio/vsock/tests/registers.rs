//! The registers, as every virtio device has them.

use super::driver::Driver;
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

fn features(driver: &Driver, half: u32) -> u32 {
    driver.write(0x014, half);
    driver.read(0x010)
}

#[test]
fn a_driver_finds_what_it_is() {
    let driver = Driver::unset();
    assert_eq!(&driver.read(0x000).to_le_bytes(), b"virt");
    assert_eq!((driver.read(0x004), driver.read(0x008)), (2, 19));
    assert_eq!(&driver.read(0x00c).to_le_bytes(), b"hotv");
    assert_eq!(features(&driver, 0), 1 | 1 << 28 | 1 << 29);
    assert_eq!(features(&driver, 1), 1, "version 1");
    assert_eq!(features(&driver, 2), 0);
    for (queue, size) in [(0, 128), (1, 128), (2, 16), (3, 0), (u32::MAX, 0)] {
        driver.write(0x030, queue);
        assert_eq!(driver.read(0x034), size, "queue {queue}");
    }
    let memory: Vec<u32> = (0x0b0..0x0c0)
        .step_by(4)
        .map(|at| driver.read(at))
        .collect();
    assert_eq!(memory, [u32::MAX; 4], "no shared memory");
}

#[test]
fn the_configuration_is_read_at_any_width() {
    let driver = Driver::unset();
    for (offset, expected) in [
        (0, vec![52]),
        (0, vec![52, 0]),
        (0, vec![52, 0, 0, 0]),
        (0, vec![52, 0, 0, 0, 0, 0, 0, 0]),
        (1, vec![0]),
        (4, vec![0, 0, 0, 0]),
        (7, vec![0, 0]),
        (0xefc, vec![0, 0, 0, 0]),
    ] {
        let mut data = vec![0xaa; expected.len()];
        let base = MmioAddress(0);
        driver.transport.mmio_read(base, 0x100 + offset, &mut data);
        assert_eq!(data, expected, "at {offset}");
    }
}

#[test]
fn features_are_agreed_on_before_anything_else() {
    let driver = Driver::unset();
    let agree = |high, low| {
        driver.write(0x070, 0);
        driver.write(0x070, 3);
        driver.write(0x024, 1);
        driver.write(0x020, high);
        driver.write(0x024, 0);
        driver.write(0x020, low);
        driver.write(0x024, 2);
        driver.write(0x020, u32::MAX);
        driver.write(0x070, 11);
        driver.read(0x070)
    };
    assert_eq!(agree(0, 0), 3, "not of version 1");
    assert_eq!(agree(1, 1 << 4), 3, "one that is not offered");
    assert_eq!(agree(3, 0), 3, "one that is not offered");
    assert_eq!(agree(1, 1), 11);
    driver.write(0x024, 1);
    driver.write(0x020, 0);
    assert_eq!(driver.read(0x070), 11, "it is too late for others");
    driver.write(0x070, 0);
    driver.write(0x070, 4);
    assert_eq!(driver.read(0x070), 0, "nor is it used before");
    driver.write(0x070, 128 | 64 | 32);
    assert_eq!(driver.read(0x070), 128, "the rest is the device's to say");
}

#[test]
fn queues_are_set_up_between_the_two() {
    let driver = Driver::unset();
    let ready = || {
        driver.write(0x030, 0);
        driver.write(0x044, 1);
        driver.read(0x044)
    };
    assert_eq!(ready(), 0);
    let mut driver = Driver::unset();
    driver.set_up();
    driver.write(0x030, 1);
    assert_eq!(driver.read(0x044), 1);
    driver.write(0x044, 0);
    assert_eq!(driver.read(0x044), 1, "it is in use");
    driver.write(0x070, 0);
    assert_eq!(driver.read(0x044), 0);
    driver.write(0x044, 0);
    driver.write(0x030, 3);
    driver.write(0x044, 1);
    assert_eq!(driver.read(0x044), 0);
}

#[test]
fn accesses_of_another_width_or_place_do_nothing() {
    let mut driver = Driver::unset();
    driver.set_up();
    let base = MmioAddress(0);
    for (offset, width) in [
        (0x70, 1),
        (0x70, 2),
        (0x70, 8),
        (0x71, 4),
        (0x6e, 4),
        (0x70, 3),
    ] {
        let mut data = vec![0xaa; width];
        driver.transport.mmio_read(base, offset, &mut data);
        assert_eq!(data, vec![0; width], "{offset:#x} {width}");
        driver.transport.mmio_write(base, offset, &vec![0; width]);
    }
    for at in [
        0x000, 0x008, 0x010, 0x034, 0x060, 0x0b0, 0x0fc, 0x100, 0xffc, 0x018,
    ] {
        driver.write(at, 0);
    }
    assert_eq!(driver.read(0x070), 15, "it is in use as before");
    for at in [0x018, 0x01c, 0x020, 0x040, 0x050, 0x064, 0x080, 0x0c0] {
        assert_eq!(driver.read(at), 0, "{at:#x}");
    }
}

#[test]
fn the_worker_is_woken_by_what_it_has_to_see() {
    let mut driver = Driver::unset();
    driver.write(0x070, 1);
    assert_eq!(driver.wakes.take(), 0);
    driver.set_up();
    assert!(driver.wakes.take() > 0, "it is in use");
    driver.write(0x050, 1);
    assert_eq!(driver.wakes.take(), 1, "a queue has something");
    driver.write(0x070, 0);
    assert_eq!(driver.wakes.take(), 1, "a reset");
}
