package org.mnv3.demo

import android.Manifest
import android.content.Context
import android.content.pm.PackageManager
import android.graphics.Bitmap
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.compose.foundation.Image
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Button
import androidx.compose.material3.FilterChip
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Tab
import androidx.compose.material3.TabRow
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.DisposableEffect
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import androidx.compose.ui.viewinterop.AndroidView
import androidx.core.content.ContextCompat
import androidx.lifecycle.compose.LocalLifecycleOwner
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.withContext

private const val SHOWN_CLASSES = 3
private val THREADS = listOf(1, 2, 4)

/** Choice of engine and threads above, camera or gallery below. */
@Composable
fun DemoScreen(bundle: BundleAssets) {
    val context = LocalContext.current
    // The model is opened, run and closed on this thread alone.
    val worker = remember { Executors.newSingleThreadExecutor() }
    var engine by remember { mutableStateOf(Engine.CPU) }
    var threads by remember { mutableIntStateOf(2) }
    var classifier by remember { mutableStateOf<Classifier?>(null) }
    var problem by remember { mutableStateOf<String?>(null) }
    var tab by remember { mutableIntStateOf(0) }

    LaunchedEffect(engine, threads) {
        withContext(worker.asCoroutineDispatcher()) {
            classifier?.close()
            classifier = null
            problem = try {
                classifier = openClassifier(context, bundle, engine, threads)
                null
            } catch (error: RuntimeException) {
                "$engine: ${error.message}"
            }
        }
    }
    DisposableEffect(Unit) {
        onDispose {
            worker.execute { classifier?.close() }
            worker.shutdown()
        }
    }
    Column(Modifier.fillMaxSize().padding(12.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            for (choice in Engine.entries) FilterChip(engine == choice, { engine = choice }, { Text(choice.name) })
        }
        if (engine == Engine.CPU) {
            Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                for (count in THREADS) {
                    FilterChip(threads == count, { threads = count }, { Text(stringResource(R.string.threads, count)) })
                }
            }
        }
        if (engine == Engine.MEDIAPIPE && bundle.contract.preprocessing.interpolation != "mediapipe") {
            Text(stringResource(R.string.other_preprocessing), color = MaterialTheme.colorScheme.error)
        }
        problem?.let { Text(it, color = MaterialTheme.colorScheme.error) }
        TabRow(tab) {
            Tab(tab == 0, { tab = 0 }, text = { Text(stringResource(R.string.camera)) })
            Tab(tab == 1, { tab = 1 }, text = { Text(stringResource(R.string.gallery)) })
        }
        classifier?.let { if (tab == 0) CameraScreen(it, worker) else GalleryScreen(it, worker) }
    }
}

/** Live answers; a frame that comes while another is worked on is dropped. */
@Composable
private fun CameraScreen(classifier: Classifier, worker: ExecutorService) {
    val context = LocalContext.current
    var allowed by remember { mutableStateOf(mayUseCamera(context)) }
    var result by remember { mutableStateOf<Result?>(null) }
    val ask = rememberLauncherForActivityResult(ActivityResultContracts.RequestPermission()) { allowed = it }
    if (!allowed) {
        Button({ ask.launch(Manifest.permission.CAMERA) }) { Text(stringResource(R.string.allow_camera)) }
        return
    }
    val owner = LocalLifecycleOwner.current
    val view = remember { PreviewView(context) }
    DisposableEffect(classifier) {
        val provider = ProcessCameraProvider.getInstance(context)
        provider.addListener({
            val preview = Preview.Builder().build().also { it.surfaceProvider = view.surfaceProvider }
            val analysis = ImageAnalysis.Builder()
                .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                .build()
            analysis.setAnalyzer(worker) { frame ->
                frame.use {
                    val upright = it.toBitmap().turned(it.imageInfo.rotationDegrees)
                    if (classifier.isOpen) result = classifier.classify(upright, SHOWN_CLASSES)
                }
            }
            provider.get().unbindAll()
            provider.get().bindToLifecycle(owner, CameraSelector.DEFAULT_BACK_CAMERA, preview, analysis)
        }, ContextCompat.getMainExecutor(context))
        onDispose { provider.addListener({ provider.get().unbindAll() }, ContextCompat.getMainExecutor(context)) }
    }
    result?.let { Answers(it) }
    AndroidView({ view }, Modifier.fillMaxSize())
}

/** Answers for a picture of the device. */
@Composable
private fun GalleryScreen(classifier: Classifier, worker: ExecutorService) {
    val context = LocalContext.current
    var picture by remember { mutableStateOf<Bitmap?>(null) }
    var result by remember { mutableStateOf<Result?>(null) }
    val pick = rememberLauncherForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri ->
        if (uri != null) worker.execute { picture = context.contentResolver.uprightPicture(uri) }
    }
    LaunchedEffect(picture, classifier) {
        val chosen = picture ?: return@LaunchedEffect
        result = withContext(worker.asCoroutineDispatcher()) {
            if (classifier.isOpen) classifier.classify(chosen, SHOWN_CLASSES) else null
        }
    }
    Button({ pick.launch(PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.ImageOnly)) }) {
        Text(stringResource(R.string.choose_picture))
    }
    result?.let { Answers(it) }
    picture?.let { Image(it.asImageBitmap(), contentDescription = null, modifier = Modifier.fillMaxWidth()) }
}

@Composable
private fun Answers(result: Result) {
    Column(Modifier.fillMaxWidth(), verticalArrangement = Arrangement.spacedBy(4.dp)) {
        for (answer in result.answers) {
            Row(Modifier.fillMaxWidth(), horizontalArrangement = Arrangement.SpaceBetween) {
                Text(answer.label)
                Text("%.1f%%".format(answer.probability * 100))
            }
            LinearProgressIndicator(progress = { answer.probability }, modifier = Modifier.fillMaxWidth())
        }
        Text(stringResource(R.string.latency, result.prepareMs, result.runMs), style = MaterialTheme.typography.bodySmall)
    }
}

private fun mayUseCamera(context: Context): Boolean =
    ContextCompat.checkSelfPermission(context, Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED
