//! The demonstration works as the README describes.

use anyhow::{Result, ensure};
use meshsync_e2e::cluster::Level;
use meshsync_e2e::{demo, lab};

#[test]
fn demonstration_completes_and_measures_every_step() -> Result<()> {
    lab::run("demonstration", async |lab| {
        let cluster = lab.cluster(Level::Node).start().await?;
        let figures = demo::show(&cluster).await?;
        let demo::Figures { objects, types, first_object_ms, snapshot_ms, blacklist_ms, event_ms, agent_rss_mib } =
            figures;
        ensure!(objects > 200 && types > 50, "too little arrived: {figures:?}");
        ensure!(0 < first_object_ms && first_object_ms <= snapshot_ms && snapshot_ms < 30_000, "{figures:?}");
        ensure!(blacklist_ms < 3_000 && event_ms < 3_000, "too slow: {figures:?}");
        ensure!((1.0..120.0).contains(&agent_rss_mib), "{figures:?}");
        Ok(())
    })
}
