use super::*;
use crate::store::{ChangeLimits, Changes, Current};
use crate::{
    domain::{
        gateways::{Address, Gateway, Hour, Source, Status, Transition},
        ids::GatewayId,
    },
    store::{DeviceChange, GatewayRecord, Record},
};

fn gateway(id: i64, parent_id: Option<i64>) -> Gateway {
    Gateway {
        id: GatewayId(id),
        name: format!("gateway {id}"),
        address: Address::parse("tcp://192.0.2.1:443").unwrap(),
        parent_id: parent_id.map(GatewayId),
        max_rtt_ms: Some(5.5),
        max_loss_percent: None,
        source: Source::Api,
    }
}

fn turned(id: i64, minutes: i64, status: Status) -> Record {
    let transition = Transition { at: start() + TimeDelta::minutes(minutes), status, reason: None };
    Record::Gateway(GatewayRecord::Transition { gateway: GatewayId(id), transition })
}

fn hour(id: i64, probes: u32) -> Record {
    let samples = (0..probes).map(|probe| (probe * 1000, Some(1.0))).collect();
    let hour = Hour { began_at: start(), probes, answered: probes, rtt_ms: Some(1.0), samples: Some(samples) };
    Record::Gateway(GatewayRecord::Hour { gateway: GatewayId(id), hour })
}

/// How many changes and hours are kept of a gateway.
async fn kept(store: &Store, id: i64) -> (usize, Vec<u32>) {
    let day = TimeDelta::days(1);
    let history = store.gateway_history(GatewayId(id), start() - day, start() + day, 100).await.unwrap();
    (history.transitions.len(), history.hours.iter().map(|hour| hour.probes).collect())
}

#[tokio::test]
async fn a_gateway_is_read_as_it_was_created_or_changed_last() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (first, second) = (gateway(1, None), gateway(2, Some(1)));
    for new in [&first, &second] {
        assert_eq!(store.create_gateway(new, None).await.unwrap(), Current::Yes(true));
    }
    assert_eq!(store.create_gateway(&gateway(2, None), None).await.unwrap(), Current::Yes(false));
    assert_eq!(store.gateways().await.unwrap(), [first.clone(), second]);
    let changed =
        Gateway { name: "other".to_owned(), max_rtt_ms: None, max_loss_percent: Some(1.0), ..gateway(2, None) };
    assert_eq!(store.update_gateway(&changed, None).await.unwrap(), Current::Yes(true));
    assert_eq!(store.update_gateway(&gateway(3, None), None).await.unwrap(), Current::Yes(false));
    assert_eq!(store.gateways().await.unwrap(), [first, changed]);
    assert_eq!(store.unused_gateway_id().await.unwrap(), GatewayId(3));
    store.reserve_gateway_ids(GatewayId(10)).await.unwrap();
    store.delete_gateway(GatewayId(2), None).await.unwrap();
    assert_eq!(store.unused_gateway_id().await.unwrap(), GatewayId(11));
}

#[tokio::test]
async fn a_deleted_gateway_leaves_no_history_and_nothing_behind_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for (id, parent) in [(1, None), (2, Some(1)), (3, None)] {
        assert_eq!(store.create_gateway(&gateway(id, parent), None).await.unwrap(), Current::Yes(true));
    }
    let device = ClientId::random();
    fixture.device(device).await;
    let change = DeviceChange { gateway_id: Some(Some(GatewayId(1))), name: None, metadata: None };
    assert!(matches!(store.update_device(device, change, None).await.unwrap(), Current::Yes(Some(_))));
    let records = [turned(1, 0, Status::Connected), hour(1, 3), turned(3, 0, Status::Connected), hour(3, 2)];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();

    let Current::Yes(behind) = store.delete_gateway(GatewayId(1), None).await.unwrap() else { panic!() };
    assert_eq!(behind.iter().map(|device| (device.uuid, device.gateway_id)).collect::<Vec<_>>(), [(device, None)]);
    assert_eq!(store.gateways().await.unwrap(), [gateway(2, None), gateway(3, None)]);
    assert_eq!((kept(store, 1).await, kept(store, 3).await), ((0, vec![]), (1, vec![2])));
}

#[tokio::test]
async fn what_was_recorded_before_a_deletion_goes_and_what_comes_after_it_stays() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    store
        .write_journal(&[turned(1, 0, Status::Connected), hour(1, 1)], Changes::default(), ChangeLimits::default())
        .await
        .unwrap();
    let deleted = Record::Gateway(GatewayRecord::Deleted(GatewayId(1)));
    let records = [
        turned(1, 1, Status::Disconnected),
        hour(1, 2),
        turned(2, 1, Status::Connected),
        deleted.clone(),
        turned(1, 2, Status::Connected),
    ];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    assert_eq!((kept(store, 1).await, kept(store, 2).await), ((1, vec![]), (1, vec![])));
    // the answer to the first try was lost
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    assert_eq!(kept(store, 1).await, (1, vec![]));
    store.write_journal(&[deleted], Changes::default(), ChangeLimits::default()).await.unwrap();
    assert_eq!(kept(store, 1).await, (0, vec![]));
}

#[tokio::test]
async fn of_an_hour_that_is_written_again_the_last_state_counts() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    store.write_journal(&[hour(1, 1), hour(1, 2)], Changes::default(), ChangeLimits::default()).await.unwrap();
    store.write_journal(&[hour(1, 3)], Changes::default(), ChangeLimits::default()).await.unwrap();
    assert_eq!(kept(store, 1).await, (0, vec![3]));
}

#[tokio::test]
async fn thinning_keeps_figures_and_the_last_change_of_each_gateway() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let records = [turned(1, 0, Status::Connected), turned(1, 1, Status::Disconnected), hour(1, 3), hour(2, 3)];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    let (hour, day) = (TimeDelta::hours(1), TimeDelta::days(1));
    store.thin_gateway_history(start() + hour, start() - day).await.unwrap();
    let history = store.gateway_history(GatewayId(1), start() - day, start() + day, 100).await.unwrap();
    assert_eq!((history.transitions.len(), history.hours[0].probes, &history.hours[0].samples), (2, 3, &None));
    store.thin_gateway_history(start() + day, start() + day).await.unwrap();
    assert_eq!((kept(store, 1).await, kept(store, 2).await), ((1, vec![]), (0, vec![])));
    let last = store.last_gateway_transitions().await.unwrap();
    assert_eq!(last.iter().map(|(id, last)| (id.0, last.status)).collect::<Vec<_>>(), [(1, Status::Disconnected)]);
}

#[tokio::test]
async fn a_change_of_gateways_that_are_not_as_its_author_knows_them_changes_nothing() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let known = store.gateway_version().await.unwrap();
    assert_eq!(store.create_gateway(&gateway(1, None), Some(known)).await.unwrap(), Current::Yes(true));
    assert_eq!(store.gateway_version().await.unwrap(), known + 1);
    let other = Gateway { name: "other".to_owned(), ..gateway(1, None) };
    assert_eq!(store.create_gateway(&gateway(2, None), Some(known)).await.unwrap(), Current::No);
    assert_eq!(store.update_gateway(&other, Some(known)).await.unwrap(), Current::No);
    assert!(matches!(store.delete_gateway(GatewayId(1), Some(known)).await.unwrap(), Current::No));
    let device = ClientId::random();
    fixture.device(device).await;
    let behind = DeviceChange { gateway_id: Some(Some(GatewayId(1))), ..DeviceChange::default() };
    let linked = async |version| store.update_device(device, behind.clone(), Some(version)).await.unwrap();
    assert!(matches!(linked(known).await, Current::No));
    assert_eq!(store.device(device).await.unwrap().unwrap().gateway_id, None);
    assert!(matches!(linked(known + 1).await, Current::Yes(Some(_))));
    assert_eq!(store.gateways().await.unwrap(), [gateway(1, None)]);
    // what is refused for another reason is no change
    assert_eq!(store.create_gateway(&gateway(1, None), Some(known + 1)).await.unwrap(), Current::Yes(false));
    assert_eq!(store.gateway_version().await.unwrap(), known + 1);
    assert_eq!(store.update_gateway(&other, Some(known + 1)).await.unwrap(), Current::Yes(true));
    assert!(matches!(store.delete_gateway(GatewayId(1), Some(known + 2)).await.unwrap(), Current::Yes(_)));
    assert_eq!(store.gateway_version().await.unwrap(), known + 3);
}

#[tokio::test]
async fn of_recent_changes_the_last_one_of_each_gateway_is_read() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let records = [
        turned(1, 0, Status::Connected),
        turned(2, 5, Status::Connected),
        turned(2, 6, Status::Disconnected),
        turned(3, 7, Status::Connected),
    ];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    let recent = store.gateway_transitions_since(start() + TimeDelta::minutes(1)).await.unwrap();
    let recent: Vec<_> = recent.into_iter().map(|(id, last)| (id.0, last.status)).collect();
    assert_eq!(recent, [(2, Status::Disconnected), (3, Status::Connected)]);
}
