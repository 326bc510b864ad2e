PRAGMA application_id=1684235313;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE builds (
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        submitted_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        actor TEXT NOT NULL,
        priority INTEGER NOT NULL,
        pause_before TEXT,
        idempotency_key TEXT,
        completed_checkpoints INTEGER NOT NULL,
        total_checkpoints INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        submitted_position INTEGER NOT NULL,
        position INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (id)
    ) WITHOUT ROWID, STRICT
    ;
INSERT INTO "builds" VALUES('aaaaaaaaaa','live','completed','','2026-01-01T00:00:01.000000Z','2026-01-01T00:00:17.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}',3,NULL,'nightly',2,2,0,1,18,18);
INSERT INTO "builds" VALUES('bbbbbbbbbb','live','paused','transfer ran out of space: no space left while making a workspace','2026-01-01T00:00:18.000000Z','2026-01-01T00:00:28.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}',0,NULL,NULL,0,3,0,19,31,13);
INSERT INTO "builds" VALUES('cccccccccc','other','cancelled','','2026-01-01T00:00:29.000000Z','2026-01-01T00:00:35.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}',0,NULL,NULL,0,1,1,32,38,7);
INSERT INTO "builds" VALUES('dddddddddd','hard','paused','only was interrupted 3 times in a row, at last because of worker-died; find the cause, then resume','2026-01-01T00:00:36.000000Z','2026-01-01T00:00:46.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}',0,NULL,NULL,0,1,0,39,50,12);
CREATE TABLE events (
        position INTEGER NOT NULL,
        build TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        type TEXT NOT NULL,
        version INTEGER NOT NULL,
        time TEXT NOT NULL,
        actor TEXT NOT NULL,
        data TEXT NOT NULL,
        hash TEXT NOT NULL,
        PRIMARY KEY (position),
        UNIQUE (build, sequence)
    ) STRICT
    ;
INSERT INTO "events" VALUES(1,'aaaaaaaaaa',1,'BuildSubmitted',1,'2026-01-01T00:00:01.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"fresh":false,"idempotency_key":"nightly","inputs":[{"mode":493,"path":"/home/ada/motd","sha256":"44"}],"manifest":"<dc><distro name=''live''/></dc>","manifest_path":"/home/ada/live.xml","name":"live","parameters":{"hostname":"büro"},"pause_before":"configure","plan":{"checkpoints":[{"args":["true"],"checkpoint_class":"CustomScript","description":"does transfer","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"}],"key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"transfer","network":true,"tools":["tar"]},{"args":["true"],"checkpoint_class":"CustomScript","description":"does configure","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"}],"key":"1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"configure","network":true,"tools":["tar"]},{"args":["true"],"checkpoint_class":"CustomScript","description":"does iso","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"},{"digest":"22","kind":"external","line":0,"name":"bookworm"}],"key":"43ae42e4790244d22de0f788685a2971efe38797a3b11bf03f22ff0e80475a9e","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"iso","network":true,"tools":["tar"]}]},"priority":3}','17438e6fdd8ae7b16bba750f97e9278029af33059911165436141d26be101426');
INSERT INTO "events" VALUES(2,'aaaaaaaaaa',2,'BuildStarted',1,'2026-01-01T00:00:02.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','479cbf252d4cb7160d0f8716fd09fbd3bc2482387f4254f142e7a46cb5ea50ac');
INSERT INTO "events" VALUES(3,'aaaaaaaaaa',3,'CheckpointStarted',1,'2026-01-01T00:00:03.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"transfer","external":{},"key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","log":"/var/lib/dcd/logs/aaaaaaaaaa/transfer.1.log"}','8e54ff6e8ebbb007a435cc051fd89f2a9b650213d379cd41dfcc33033d5922c5');
INSERT INTO "events" VALUES(4,'aaaaaaaaaa',4,'CheckpointCompleted',1,'2026-01-01T00:00:04.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"artifacts":[{"format":"iso","name":"live.iso","path":"media/live.iso","sha256":"33","size_bytes":5}],"attempt":1,"checkpoint":"transfer","key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","seconds":2.5,"size_bytes":4096}','1bd340da96c1efdbcd803bd095b67fefaf6813b3779dbb94c794aee9ad3a41ac');
INSERT INTO "events" VALUES(5,'aaaaaaaaaa',5,'BuildPaused',1,'2026-01-01T00:00:05.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"cause":"requested","reason":"paused before configure as requested"}','96b0c7c571957b065fdcd6a54610dbddc284a8163c8e16b596507e567fa619fc');
INSERT INTO "events" VALUES(6,'aaaaaaaaaa',6,'BuildResumed',1,'2026-01-01T00:00:06.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"inputs":[],"kept":null,"manifest":null,"manifest_path":null,"parameters":{},"pause_before":null,"plan":null}','245d83f24fe890a7ce3fe779808026e9670e595b57bcb9f676f40d67caf56a3e');
INSERT INTO "events" VALUES(7,'aaaaaaaaaa',7,'BuildStarted',1,'2026-01-01T00:00:07.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{}','825ef784f76aff96a866c72d6a40da2e4cb5c8a6c169c6c3cdc8201f93422277');
INSERT INTO "events" VALUES(8,'aaaaaaaaaa',8,'CheckpointStarted',1,'2026-01-01T00:00:08.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"configure","external":{},"key":"1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3","log":"/var/lib/dcd/logs/aaaaaaaaaa/configure.1.log"}','1010426d1c03e86f04b0704f2f1a8f6652ac4e6f796485a079991084cb71eaf9');
INSERT INTO "events" VALUES(9,'aaaaaaaaaa',9,'CheckpointFailed',1,'2026-01-01T00:00:09.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"checkpoint":"configure","error":{"brief":"sh failed","details":"its last lines: no","resolution":"mend it"},"seconds":1.25}','15f05343e1d9234b44838cbbdad2a45e23c0f69645e2d744bd639c1a5a53d2bc');
INSERT INTO "events" VALUES(10,'aaaaaaaaaa',10,'BuildFailed',1,'2026-01-01T00:00:09.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"checkpoint":"configure","error":{"brief":"sh failed","details":"its last lines: no","resolution":"mend it"}}','e4b5536656c820c082728ae50a37c02c25adffe2b6fd1615aff5ed1e47272b42');
INSERT INTO "events" VALUES(11,'aaaaaaaaaa',11,'BuildResumed',1,'2026-01-01T00:00:10.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"inputs":[],"kept":1,"manifest":"<dc/>","manifest_path":"/home/ada/new.xml","parameters":{},"pause_before":null,"plan":{"checkpoints":[{"args":["true"],"checkpoint_class":"CustomScript","description":"does transfer","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"}],"key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"transfer","network":true,"tools":["tar"]},{"args":["true"],"checkpoint_class":"CustomScript","description":"does iso","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"},{"digest":"22","kind":"external","line":0,"name":"bookworm"}],"key":"57cff91ab90c53c48d50786db0b57302a66732f7cd1d52c931081202703e2976","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"iso","network":true,"tools":["tar"]}]}}','3c6230bd3051604c618bc7ce8a590619bbb7c1071cafd9677cdc6a67732216fa');
INSERT INTO "events" VALUES(12,'aaaaaaaaaa',12,'BuildStarted',1,'2026-01-01T00:00:11.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{}','eb1725041a4e6b8b2b9c230d3b89d6fa2420b3cdefe8c5ea80d2bf5ea1fcf421');
INSERT INTO "events" VALUES(13,'aaaaaaaaaa',13,'CheckpointStarted',1,'2026-01-01T00:00:12.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"iso","external":{"bookworm":"55"},"key":"9d487d87b085b0861090e76d7a6f23fd334bf25b429a12893c0c0f7d9ac76b15","log":"/var/lib/dcd/logs/aaaaaaaaaa/iso.1.log"}','ff3d097eb0bcd4aff8daaba7c843b6e213f058bbad229dc377aeea0f34cb5ca0');
INSERT INTO "events" VALUES(14,'aaaaaaaaaa',14,'CheckpointInterrupted',1,'2026-01-01T00:00:13.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"cause":"daemon-died","checkpoint":"iso","details":""}','cd90535f8bbb16d2c47c933b708f912eb2dc08887ffa235249fbdc7105f85b25');
INSERT INTO "events" VALUES(15,'aaaaaaaaaa',15,'CheckpointStarted',1,'2026-01-01T00:00:14.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":2,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"iso","external":{"bookworm":"55"},"key":"9d487d87b085b0861090e76d7a6f23fd334bf25b429a12893c0c0f7d9ac76b15","log":"/var/lib/dcd/logs/aaaaaaaaaa/iso.2.log"}','74efce753adbcb48fff0ba87e0bb4f0187cacabb345c5dca77611dddd4e732ed');
INSERT INTO "events" VALUES(16,'aaaaaaaaaa',16,'CheckpointCompleted',1,'2026-01-01T00:00:15.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"artifacts":[{"format":"iso","name":"live.iso","path":"media/live.iso","sha256":"33","size_bytes":5}],"attempt":2,"checkpoint":"iso","key":"9d487d87b085b0861090e76d7a6f23fd334bf25b429a12893c0c0f7d9ac76b15","seconds":2.5,"size_bytes":4096}','65971a36fdb4aa2283eec7049ab95bdfe08fc40b74179ad6e938d51b9f12d956');
INSERT INTO "events" VALUES(17,'aaaaaaaaaa',17,'ArtifactPublished',1,'2026-01-01T00:00:16.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"artifact":{"format":"iso","name":"live.iso","path":"/var/lib/dcd/artifacts/aaaaaaaaaa/live.iso","sha256":"33","size_bytes":5}}','a877850daeaff7f6160b8359ad3f29e3d6250a68cdddfd6f243e80b39e5bdeac');
INSERT INTO "events" VALUES(18,'aaaaaaaaaa',18,'BuildCompleted',1,'2026-01-01T00:00:17.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"seconds":6.25}','3d7c73241062862ee31065a59f632ad8761d444c652fc4b883e3f612a63c75e1');
INSERT INTO "events" VALUES(19,'bbbbbbbbbb',1,'BuildSubmitted',1,'2026-01-01T00:00:18.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"fresh":true,"idempotency_key":null,"inputs":[],"manifest":"<dc/>","manifest_path":"/live.xml","name":"live","parameters":{},"pause_before":null,"plan":{"checkpoints":[{"args":["true"],"checkpoint_class":"CustomScript","description":"does transfer","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"}],"key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"transfer","network":true,"tools":["tar"]},{"args":["true"],"checkpoint_class":"CustomScript","description":"does configure","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"}],"key":"1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"configure","network":true,"tools":["tar"]},{"args":["true"],"checkpoint_class":"CustomScript","description":"does iso","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"},{"digest":"22","kind":"external","line":0,"name":"bookworm"}],"key":"43ae42e4790244d22de0f788685a2971efe38797a3b11bf03f22ff0e80475a9e","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"iso","network":true,"tools":["tar"]}]},"priority":0}','2245032f82a1f282e7016c2b50c9d50aa95b80572fa8e28d8c9788203fdade27');
INSERT INTO "events" VALUES(20,'bbbbbbbbbb',2,'BuildStarted',1,'2026-01-01T00:00:19.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','3f666b82a01a037ac39d5894191c39baf98972a9eb173fdf2ca9834091bb1a6f');
INSERT INTO "events" VALUES(21,'bbbbbbbbbb',3,'CheckpointReused',1,'2026-01-01T00:00:20.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"artifacts":[],"checkpoint":"transfer","external":{},"key":"26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c","reused_from":"aaaaaaaaaa"}','0e1dd351cb975a8550c2a2882f2292e44b21563bb632a5a65b221ecaaaa5bceb');
INSERT INTO "events" VALUES(22,'bbbbbbbbbb',4,'CheckpointStarted',1,'2026-01-01T00:00:21.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"configure","external":{},"key":"1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3","log":"/var/lib/dcd/logs/bbbbbbbbbb/configure.1.log"}','630f611850e415bf0906efd7dc651ecb2c856d282fde1db8625e8f389437d28c');
INSERT INTO "events" VALUES(23,'bbbbbbbbbb',5,'PauseRequested',1,'2026-01-01T00:00:22.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"before":null}','12edf00eba36b65c28b2568d5a8061bfc662a38bbfa3d0e88ae8ace27989f38c');
INSERT INTO "events" VALUES(24,'bbbbbbbbbb',6,'CheckpointCompleted',1,'2026-01-01T00:00:23.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"artifacts":[],"attempt":1,"checkpoint":"configure","key":"1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3","seconds":1.0,"size_bytes":0}','21000743aeb4a22b97a5015a32a6402dc0c2e236affb8f6c8525fb344df63333');
INSERT INTO "events" VALUES(25,'bbbbbbbbbb',7,'BuildPaused',1,'2026-01-01T00:00:24.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"cause":"requested","reason":"as requested"}','a04f0af68c09797e767143fd3b8dd2b6044de1177e7277fb44a6595cd0b45dec');
INSERT INTO "events" VALUES(26,'bbbbbbbbbb',8,'BuildRewound',1,'2026-01-01T00:00:25.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"cause":"requested","checkpoint":"transfer","reason":""}','9de3ddb1548ce9ee0af89f296451bd2cfa552ff1fbcfcaa095d40eaf67fb0b40');
INSERT INTO "events" VALUES(27,'bbbbbbbbbb',9,'BuildResumed',1,'2026-01-01T00:00:25.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"inputs":[],"kept":null,"manifest":null,"manifest_path":null,"parameters":{},"pause_before":null,"plan":null}','c95997f49e7700821a7cac68818b1e3e953cfe9da9ecbd6ab66d33c221144ae0');
INSERT INTO "events" VALUES(28,'bbbbbbbbbb',10,'BuildStarted',1,'2026-01-01T00:00:26.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','43f1c6704c67aa762ba3ae8cf333e94791498a647e5352cd98d06457569d6063');
INSERT INTO "events" VALUES(29,'bbbbbbbbbb',11,'CheckpointStarted',1,'2026-01-01T00:00:27.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"transfer","external":{},"key":"61f1a8027a8f29b15b4f71406d009000ba866946556e8a74a0dcf7c43a13015b","log":"/var/lib/dcd/logs/bbbbbbbbbb/transfer.1.log"}','bf8f4fffcfb143133162a60d100b0fefe804c4daa30d4467bcecafbd1a96c0e8');
INSERT INTO "events" VALUES(30,'bbbbbbbbbb',12,'CheckpointInterrupted',1,'2026-01-01T00:00:28.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"cause":"no-space","checkpoint":"transfer","details":"no space left while making a workspace"}','b3bda83e265830898fb5acf373b14f05699fe8e9e1562c12cfc5b65854448975');
INSERT INTO "events" VALUES(31,'bbbbbbbbbb',13,'BuildPaused',1,'2026-01-01T00:00:28.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"cause":"no-space","reason":"transfer ran out of space: no space left while making a workspace"}','6f60904e175c21dcd734ee7eb694244249a28e25ffb8dabe6063c9d628e6a56e');
INSERT INTO "events" VALUES(32,'cccccccccc',1,'BuildSubmitted',1,'2026-01-01T00:00:29.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"fresh":false,"idempotency_key":null,"inputs":[],"manifest":"<dc/>","manifest_path":"/other.xml","name":"other","parameters":{},"pause_before":null,"plan":{"checkpoints":[{"args":["true"],"checkpoint_class":"CustomScript","description":"does only","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"},{"digest":"22","kind":"external","line":0,"name":"bookworm"}],"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"only","network":true,"tools":["tar"]}]},"priority":0}','cdaa6954290692014edc29f6ec890e87898d3c66415a2fed4b3bf67fd7f28396');
INSERT INTO "events" VALUES(33,'cccccccccc',2,'BuildStarted',1,'2026-01-01T00:00:30.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','d726e15f7f5f5d1f9cbdb70e84010c565b42f17c4ad457b6a76013fbc2818db0');
INSERT INTO "events" VALUES(34,'cccccccccc',3,'CheckpointStarted',1,'2026-01-01T00:00:31.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"only","external":{},"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","log":"/var/lib/dcd/logs/cccccccccc/only.1.log"}','d58b56c2c8939f3128ef5e5038e68907342b6f8aac471f86e017d9707bef4609');
INSERT INTO "events" VALUES(35,'cccccccccc',4,'CancelRequested',1,'2026-01-01T00:00:32.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{}','8a2792c5ec83f0bc175827fa69e612d532dfe738612225e90a0175a008801632');
INSERT INTO "events" VALUES(36,'cccccccccc',5,'CheckpointInterrupted',1,'2026-01-01T00:00:33.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"cause":"cancelled","checkpoint":"only","details":""}','dc9c86c98b8ca5ad8fa23f145d0c3e5a6c2dd24e1073b55337ff1981ab1b8e27');
INSERT INTO "events" VALUES(37,'cccccccccc',6,'BuildCancelled',1,'2026-01-01T00:00:34.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','746fd4d018edab490fe138d3d0f9d24fa3aafd3697d49a7638dedfa08f73e2e7');
INSERT INTO "events" VALUES(38,'cccccccccc',7,'BuildRemoved',1,'2026-01-01T00:00:35.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{}','832b733ed7e2b533b0a1355017feef479c5a105607eaef1017b8725822ea96f3');
INSERT INTO "events" VALUES(39,'dddddddddd',1,'BuildSubmitted',1,'2026-01-01T00:00:36.000000Z','{"gid":1000,"pid":4711,"uid":1000,"user":"ada"}','{"fresh":false,"idempotency_key":null,"inputs":[],"manifest":"<dc/>","manifest_path":"/hard.xml","name":"hard","parameters":{},"pause_before":null,"plan":{"checkpoints":[{"args":["true"],"checkpoint_class":"CustomScript","description":"does only","disk_bytes":1048576,"estimate_seconds":12.5,"ingredients":[{"digest":"11","kind":"class","line":0,"name":"class"},{"digest":"1","kind":"code","line":7,"name":"code"},{"digest":"22","kind":"external","line":0,"name":"bookworm"}],"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","kwargs":{"environment":["A=ä"],"network":true,"timeout_seconds":1.5},"mod_path":"dcd/checkpoints/custom_script","name":"only","network":true,"tools":["tar"]}]},"priority":0}','63443a815361f5b5030051d05bcd5eaaeced3f9f70d8f917af08bf55824f6770');
INSERT INTO "events" VALUES(40,'dddddddddd',2,'BuildStarted',1,'2026-01-01T00:00:37.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{}','d9d0332f4222cd34cf5355e1993edc67bd29a8b260fc1e51a1d88867ebd7998f');
INSERT INTO "events" VALUES(41,'dddddddddd',3,'CheckpointStarted',1,'2026-01-01T00:00:38.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"only","external":{},"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","log":"/var/lib/dcd/logs/dddddddddd/only.1.log"}','d9adc92ea2d216cd96f79df76e25c71f1e6bed73bb5b968be332059d1674a9d4');
INSERT INTO "events" VALUES(42,'dddddddddd',4,'ResourceClaimed',1,'2026-01-01T00:00:39.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"checkpoint":"only","kind":"iscsi-tgt","name":"iqn.2026-11.invalid.dcd:d"}','af2acab99b2b83caa9b04ceacb946c0a79f972d87a97e98e03f4451b9440b915');
INSERT INTO "events" VALUES(43,'dddddddddd',5,'CheckpointInterrupted',1,'2026-01-01T00:00:40.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":1,"cause":"daemon-died","checkpoint":"only","details":"the worker was killed"}','c31a9cb0d02acca98beb39f0804b3aa2da35dd348090f802168813399411e229');
INSERT INTO "events" VALUES(44,'dddddddddd',6,'CheckpointStarted',1,'2026-01-01T00:00:41.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":2,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"only","external":{},"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","log":"/var/lib/dcd/logs/dddddddddd/only.2.log"}','7396404a72a96ee349b1cfeeadd02caf959f1ccefb15f15f53c763f2b01b164b');
INSERT INTO "events" VALUES(45,'dddddddddd',7,'ResourceClaimed',1,'2026-01-01T00:00:42.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":2,"checkpoint":"only","kind":"iscsi-tgt","name":"iqn.2026-11.invalid.dcd:d"}','6736bc8306ca316db06ac49b52c46c4e933acb9f68429e16cb8f591d28b58386');
INSERT INTO "events" VALUES(46,'dddddddddd',8,'CheckpointInterrupted',1,'2026-01-01T00:00:43.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":2,"cause":"machine-rebooted","checkpoint":"only","details":"the worker was killed"}','77957e067388417ecb066b5ae73baf5ec8e8070827b8fe828ed4c40cd44ad8e3');
INSERT INTO "events" VALUES(47,'dddddddddd',9,'CheckpointStarted',1,'2026-01-01T00:00:44.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":3,"boot_id":"3c9c2f10-0000-4000-8000-000000000001","checkpoint":"only","external":{},"key":"5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54","log":"/var/lib/dcd/logs/dddddddddd/only.3.log"}','3b25a1874082830796b7c6d63058dc93719874aaebc09f72503010f7837a3de2');
INSERT INTO "events" VALUES(48,'dddddddddd',10,'ResourceClaimed',1,'2026-01-01T00:00:45.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":3,"checkpoint":"only","kind":"iscsi-tgt","name":"iqn.2026-11.invalid.dcd:d"}','7b34335cf53b46063bdc0d3f42f4527cf21bae7eedc3e92a7dc5c993d0331656');
INSERT INTO "events" VALUES(49,'dddddddddd',11,'CheckpointInterrupted',1,'2026-01-01T00:00:46.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"attempt":3,"cause":"worker-died","checkpoint":"only","details":"the worker was killed"}','71142a9e30be1a2e1c4ab1e38ed68d040c416e47c16977caa592bf9556d87ac2');
INSERT INTO "events" VALUES(50,'dddddddddd',12,'BuildPaused',1,'2026-01-01T00:00:46.000000Z','{"gid":null,"pid":null,"uid":null,"user":"dcd"}','{"cause":"interrupted","reason":"only was interrupted 3 times in a row, at last because of worker-died; find the cause, then resume"}','fc3296b98ac739f9a76979003cc2d547994474ba38a0aeb3b5650da3154e2b7b');
CREATE TABLE layer_keys (
        key TEXT NOT NULL,
        build TEXT NOT NULL,
        PRIMARY KEY (key, build)
    ) WITHOUT ROWID, STRICT
    ;
INSERT INTO "layer_keys" VALUES('1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3','aaaaaaaaaa');
INSERT INTO "layer_keys" VALUES('26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c','aaaaaaaaaa');
INSERT INTO "layer_keys" VALUES('9d487d87b085b0861090e76d7a6f23fd334bf25b429a12893c0c0f7d9ac76b15','aaaaaaaaaa');
INSERT INTO "layer_keys" VALUES('1779e31f2ac4a87a713e862097f045abda3dfe8547f6dda5e9d35d41fc02e5c3','bbbbbbbbbb');
INSERT INTO "layer_keys" VALUES('26b87915f29d12e46944d4f42b361b2be9d323c3de0939e259da64a45ba1bc1c','bbbbbbbbbb');
INSERT INTO "layer_keys" VALUES('61f1a8027a8f29b15b4f71406d009000ba866946556e8a74a0dcf7c43a13015b','bbbbbbbbbb');
INSERT INTO "layer_keys" VALUES('5cd5cab36f3c5445d0db6600e84de5e6569b7409be0c71cf90804aabb38e7c54','dddddddddd');
CREATE UNIQUE INDEX builds_by_submission ON builds (submitted_position);
CREATE INDEX builds_by_state ON builds (state, submitted_position);
CREATE UNIQUE INDEX builds_by_idempotency_key ON builds (idempotency_key)
    WHERE idempotency_key IS NOT NULL
    ;
CREATE INDEX layer_keys_by_build ON layer_keys (build);
CREATE TRIGGER events_are_in_order BEFORE INSERT ON events
    WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
      OR NEW.sequence IS NOT
         (SELECT coalesce(max(sequence), 0) + 1 FROM events WHERE build = NEW.build)
    BEGIN
      SELECT RAISE(ABORT, 'an event must be the next of the log and of its build');
    END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
    BEGIN
      SELECT RAISE(ABORT, 'events are never changed');
    END;
CREATE TRIGGER events_are_never_removed BEFORE DELETE ON events
    BEGIN
      SELECT RAISE(ABORT, 'events are never removed');
    END;
COMMIT;
